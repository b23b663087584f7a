"""Who may see the admin page by what name: a site that leads its own name here (DNS rebinding) may not."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, ClientTimeout

from epp_client.admin.hosts import host_name
from epp_client.admin.server import AdminServer, Readiness
from epp_client.errors import SettingsError
from epp_client.metrics.registry import Metrics
from epp_client.pool.store import PoolStore
from epp_client.settings import serve_settings
from tests.admin.test_server import NoRequests

PAGES = ("/", "/readyz", "/metrics", "/summary", "/pools", "/pools/default/llama")


@pytest.fixture
async def server() -> AsyncIterator[str]:
    made = AdminServer(
        "0.0.0.0:0",
        PoolStore(),
        Metrics("native"),
        NoRequests(),
        Readiness(),
        ["gateway.example", "fd00::7"],
    )
    yield (await made.start()).rpartition(":")[2]
    await made.close()


async def status(address: str, page: str, host: str) -> int:
    timeout = ClientTimeout(total=10)
    async with (
        ClientSession(timeout=timeout) as session,
        session.get(f"http://{address}{page}", headers={"host": host}) as answer,
    ):
        text = await answer.text()
        assert (answer.status == 403) == ("--admin-host" in text)
        return answer.status


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9902", "localhost.evil.example", "10.9.9.9", "[fd00::8]:80"],
)
async def test_no_page_is_shown_by_another_name(server: str, page: str, host: str) -> None:
    assert await status(f"127.0.0.1:{server}", page, host) == 403


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost.:9902",
        "127.0.0.1:1",
        "[::1]:9902",
        "gateway.example:80",
        "[FD00::7]:9902",
        f"{socket.gethostname()}:9902",
        "",
    ],
)
async def test_loopback_this_machine_and_the_names_that_were_given_are_shown_the_page(
    server: str, host: str
) -> None:
    assert await status(f"127.0.0.1:{server}", "/pools", host) == 200


async def test_the_kubelet_and_prometheus_ask_by_the_address_that_they_come_to(server: str) -> None:
    """A Pod's own, which need not be told; here another one of this machine's."""
    for page in ("/readyz", "/metrics"):
        assert await status(f"127.0.0.9:{server}", page, f"127.0.0.9:{server}") == 200
    assert await status(f"127.0.0.9:{server}", "/metrics", f"127.0.0.8:{server}") == 403


async def test_any_name_may_ask_whether_we_live(server: str) -> None:
    assert await status(f"127.0.0.1:{server}", "/livez", "evil.example") == 200


async def test_http_1_0_needs_no_name(server: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server))
    writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(60):
        assert b" 200 " in await reader.readline()
    writer.close()


def test_a_host_header_is_read_as_browsers_write_it() -> None:
    cases = {
        "a.b:80": "a.b",
        "A.b.": "a.b",
        "[::1]:80": "::1",
        "[::1]": "::1",
        "::1": "::1",
        "10.0.0.1": "10.0.0.1",
        "a:b": "a:b",
        " ": "",
    }
    assert {text: host_name(text) for text in cases} == cases


@pytest.mark.parametrize("name", ["", "*", "http://a", "a:9902", "a b"])
def test_what_is_no_host_name_is_no_setting(name: str) -> None:
    with pytest.raises(SettingsError, match="admin_hosts"):
        serve_settings({"pools": "/", "admin_hosts": [name]})
