"""Envoy's side of the gateway, with the real Envoy: the status listener, and the drain before SIGTERM."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from epp_client.envoy.bootstrap import envoy_config
from epp_client.pool.inference_pool import PoolName
from testbed.ports import free_ports
from testbed.stack import ENVOY_HOST, Stack, running_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")
DRAIN = Path(__file__).parents[2] / "config" / "kubernetes" / "base" / "drain.sh"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[Stack]:
    [port] = free_ports(1)

    def with_status(bootstrap: dict[str, Any]) -> None:
        admin = bootstrap["admin"]["address"]["socket_address"]
        text = envoy_config(
            [PoolName("default", "open")],
            admin=(admin["address"], admin["port_value"]),
            status=(ENVOY_HOST, port),
            ext_proc_sockets=[Path("/unused.sock")],
            ads_socket=Path("/unused.sock"),
        )
        made = yaml.safe_load(text)["static_resources"]
        for kind, name in (("listeners", "status"), ("clusters", "envoy-admin")):
            found = [item for item in made[kind] if item["name"] == name]
            bootstrap["static_resources"][kind] += found

    async with running_stack(edit_bootstrap=with_status) as running:
        running.status = f"http://{ENVOY_HOST}:{port}"  # type: ignore[attr-defined]
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60) as made:
        yield made


async def drain(stack: Stack, least: str, most: str) -> asyncio.subprocess.Process:
    port = stack.envoy.admin.rpartition(":")[2]
    return await asyncio.create_subprocess_exec(
        "bash", str(DRAIN), least, most, port, ENVOY_HOST, stderr=asyncio.subprocess.PIPE
    )


async def said(process: asyncio.subprocess.Process) -> str:
    _, errors = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 0, errors
    return errors.decode()


async def test_the_status_listener_shows_two_pages_and_no_more(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    status: str = stack.status  # type: ignore[attr-defined]
    ready = await client.get(f"{status}/ready")
    assert (ready.status_code, ready.text.strip()) == (200, "LIVE")
    assert "envoy_server_live 1" in (await client.get(f"{status}/stats/prometheus")).text.replace(
        "envoy_server_live{} 1", "envoy_server_live 1"
    )
    for method, path in [
        ("POST", "/quitquitquit"),
        ("POST", "/ready"),
        ("GET", "/"),
        ("GET", "/config_dump"),
        ("GET", "/ready/../config_dump"),
        ("GET", "/stats"),
    ]:
        assert (await client.request(method, status + path)).status_code == 404, (method, path)
    assert (await client.get(f"{status}/ready")).status_code == 200


@asynccontextmanager
async def open_request(
    client: httpx.AsyncClient, stack: Stack
) -> AsyncIterator[tuple[asyncio.Task[httpx.Response], asyncio.Event]]:
    """A request that is open for as long as its body has not ended: until the event is set."""
    end = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"hello"
        await end.wait()

    asked = asyncio.create_task(client.post(f"{stack.pool_url('close')}/echo", content=body()))
    try:
        url = f"{stack.envoy.admin}/stats?filter=^http.inference.downstream_rq_active$"
        async with asyncio.timeout(60):
            while not (await client.get(url)).text.strip().endswith(" 1"):
                await asyncio.sleep(0.02)
        yield asked, end
    finally:
        end.set()
        await asked


async def test_the_hook_waits_for_the_open_request_and_then_returns(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    async with open_request(client, stack) as (asked, end):
        hook = await drain(stack, "0", "120")
        status: str = stack.status  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            while (await client.get(f"{status}/ready")).status_code != 503:
                await asyncio.sleep(0.02)
        ended = asyncio.create_task(hook.wait())
        await asyncio.wait({ended}, timeout=1.5)
        assert not ended.done(), "the hook has returned while a request was open"
        end.set()
        answer = await asked
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close", "clients are asked to leave"
        assert await said(hook) == ""


async def test_the_hook_gives_up_after_its_time(stack: Stack, client: httpx.AsyncClient) -> None:
    async with open_request(client, stack):
        assert "1 requests are still open after 1 s" in await said(await drain(stack, "0", "1"))


async def test_a_hook_without_time_looks_once(stack: Stack, client: httpx.AsyncClient) -> None:
    """As one does whose Envoy takes all of its time to answer the first question."""
    async with open_request(client, stack):
        assert "1 requests are still open after 0 s" in await said(await drain(stack, "0", "0"))


async def test_a_hook_without_an_envoy_is_no_obstacle(stack: Stack) -> None:
    [nobody] = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        "bash", str(DRAIN), "1", "30", str(nobody), ENVOY_HOST, stderr=asyncio.subprocess.PIPE
    )
    assert "does not answer" in await said(process)
