"""What the bootstrap must leave as it is with Envoy alone: large heads, its own 404, content-length."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from epp_client.settings import TransportName
from testbed.stack import HOSTS, Stack, inference_pool, pod, running_stack

from .tools import add_objects, echo, ext_proc_service, settled, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASKED = ("nopicker", "close", "skip")
HEADERS = (90, 94, 95, 96, 97, 98, 99, 100)
"""Of a request. Envoy takes 100 by default."""
LARGE = 61_200
"""Bytes of headers. Envoy takes 61 440 by default."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName) -> AsyncIterator[Stack]:
    async with running_stack(transport=transport, routes_to=["heads"]) as running:
        yield running


def heads(count: int, size: int = 0) -> dict[str, Any]:
    """`count` headers that have `size` bytes."""
    return {f"x-h{number:03}": "v" * max(1, size // count - 6) for number in range(count)}


@pytest.mark.parametrize("pool", ASKED)
async def test_a_request_with_as_many_headers_as_envoy_takes_is_served(
    stack: Stack, client: httpx.AsyncClient, pool: str
) -> None:
    own = len(client.build_request("POST", stack.url, content=b"hello").headers)
    for count in HEADERS:
        answer = await echo(client, stack, pool, **heads(count - own))
        assert answer.status_code == 200, (count, answer.headers)
        assert sum(name.startswith("x-h0") for name in answer.json()["headers"]) == count - own


@pytest.mark.parametrize("pool", ASKED)
async def test_a_request_with_headers_as_large_as_envoy_takes_is_served(
    stack: Stack, client: httpx.AsyncClient, pool: str
) -> None:
    answer = await echo(client, stack, pool, **heads(8, LARGE))
    assert answer.status_code == 200, answer.headers


@asynccontextmanager
async def upstream(head: bytes) -> AsyncIterator[int]:
    """An HTTP/1.1 server that answers every GET with these headers and nothing; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + head + b"\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, HOSTS[0], 0, limit=128 * 1024)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(("count", "size"), [(99, 1000), (8, LARGE)], ids=["many", "large"])
async def test_a_response_with_as_much_headers_as_envoy_takes_is_served(
    stack: Stack, client: httpx.AsyncClient, count: int, size: int
) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in heads(count, size).items())
    async with upstream(head.encode()) as port:
        member = pod("heads", HOSTS[0], app="heads")
        selector = {"matchLabels": {"app": "heads"}}
        pool = inference_pool("heads", port, None, "", selector=selector)
        add_objects(stack, [pool, member], "heads.yaml")
        url = f"{stack.pool_url('heads')}/echo"
        async with asyncio.timeout(60):
            while (answer := await client.get(url)).status_code != 200:
                await asyncio.sleep(0.05)
        assert sum(name.startswith("x-h0") for name in answer.headers) == count
        (stack.manifests / "heads.yaml").unlink()
        await until(client, stack, "heads", lambda gone: gone.status_code == 503)


async def test_a_path_that_no_route_matches_is_envoy_s_404_and_nobody_is_asked(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    await settled(stack)
    before = dict(ext_proc_service(stack).account.counters.pools)
    answer = await client.post(f"{stack.url}/elsewhere", content=b"hello")
    assert (answer.status_code, answer.content) == (404, b"")
    assert "x-inference-error" not in answer.headers
    assert dict(ext_proc_service(stack).account.counters.pools) == before


async def test_a_response_that_skip_leaves_to_envoy_keeps_its_content_length(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    # Envoy makes every response chunked whose body it sends to the sidecar.
    for pool, length in (("skip", "1000"), ("close", None)):
        answer = await client.post(f"{stack.pool_url(pool)}/echo?size=1000", content=b"hello")
        assert (answer.status_code, len(answer.content)) == (200, 1000)
        assert answer.headers.get("content-length") == length, pool
