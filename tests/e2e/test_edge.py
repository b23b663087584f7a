"""What `envoy-config` lets an operator say of clients: upgrades, TLS, connections, timeouts."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import trustme

from epp_client.envoy.edge import Edge
from epp_client.settings import TransportName
from testbed.stack import HOSTS, Stack, inference_pool, pod, running_stack

from .tools import (
    add_objects,
    echo,
    metrics,
    record_of,
    recording_picker,
    remove_objects,
    settled,
    value,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODES = ("relay", "observe", "skip")
POOLS = ("ws-local", *(f"ws-{mode}" for mode in MODES))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(
    transport: TransportName, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.10")
    for name, blob in (
        ("ca.pem", authority.cert_pem),
        ("cert.pem", certificate.cert_chain_pems[0]),
        ("key.pem", certificate.private_key_pem),
    ):
        blob.write_to_path(folder / name)
    edge = Edge(
        tls=(folder / "cert.pem", folder / "key.pem"),
        max_connections=3,
        idle_timeout=2,
        request_timeout=6,
    )
    async with running_stack(transport=transport, routes_to=POOLS, edge=edge) as running:
        running.url = running.url.replace("http:", "https:")
        running.authority = folder / "ca.pem"  # type: ignore[attr-defined]
        yield running


def trust(stack: Stack) -> ssl.SSLContext:
    authority: Path = stack.authority  # type: ignore[attr-defined]
    return ssl.create_default_context(cafile=str(authority))


@pytest_asyncio.fixture(loop_scope="session")
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60, verify=trust(stack), http2=True) as session:
        yield session


async def connect(stack: Stack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = stack.url.removeprefix("https://").rpartition(":")
    context = trust(stack)
    context.set_alpn_protocols(["http/1.1"])
    return await asyncio.open_connection(host, int(port), ssl=context)


@asynccontextmanager
async def talkative_server() -> AsyncIterator[str]:
    """A server that takes an upgrade, says hello, and repeats what it hears; its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b"upgrade: websocket" in head
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n"
            )
            writer.write(b"hello")
            while said := await reader.read(65536):
                writer.write(said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOSTS[0], 0)
    async with server:
        yield f"{HOSTS[0]}:{server.sockets[0].getsockname()[1]}"


async def upgraded(
    stack: Stack, pool: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """A connection that talks to the pool's server, and how many requests were picked for: it is asked
    for until Envoy has the pool."""
    head, picked = b"", 0
    async with asyncio.timeout(60):
        while True:
            reader, writer = await connect(stack)
            writer.write(
                f"GET /default/{pool}/talk HTTP/1.1\r\nhost: a\r\nx-mark: {pool}\r\n"
                "connection: Upgrade\r\nupgrade: websocket\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            # Envoy may have the pool before it has its endpoint: then there was a pick all the same.
            picked += b"x-inference-error" not in head or b"x-inference-error: endpoint_" in head
            if head.startswith(b"HTTP/1.1 101 "):
                return reader, writer, picked
            assert head.startswith(b"HTTP/1.1 503 "), head
            writer.close()
            await asyncio.sleep(0.1)


async def test_a_websocket_is_picked_at_its_headers_and_speaks_both_ways(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    async with (
        talkative_server() as endpoint,
        recording_picker("picker-ws", [endpoint]) as (objects, records),
    ):
        port = int(endpoint.rpartition(":")[2])
        member = pod("ws", HOSTS[0])
        member["metadata"]["labels"] = {"app": "ws"}
        selector = {"matchLabels": {"app": "ws"}}
        objects += [member, inference_pool("ws-local", port, None, "", selector=selector)]
        for mode in MODES:
            annotations = {"epp-client.dev/response-mode": mode}
            objects.append(
                inference_pool(
                    f"ws-{mode}", port, "picker-ws", "FailClose",
                    selector=selector, annotations=annotations,
                )
            )  # fmt: skip
        add_objects(stack, objects, "ws.yaml")
        for pool in POOLS:
            before = await metrics(client, stack)
            reader, writer, picked = await upgraded(stack, pool)
            async with asyncio.timeout(60):
                assert await reader.readexactly(5) == b"hello"
                for said in (b"one", b"two" * 50_000):
                    writer.write(said)
                    assert await reader.readexactly(len(said)) == said
            writer.close()
            await settled(stack)
            after = await metrics(client, stack)
            outcome = "local_pick" if pool == "ws-local" else "steered"
            named = {"pool": f"default/{pool}", "outcome": outcome}
            assert value(after, "epp_client_requests", **named) == picked + value(
                before, "epp_client_requests", **named
            )
            if outcome == "steered":
                record = await record_of(records, pool)
                assert (record.phases, record.finished) == (["request_headers"], True)
        await remove_objects(client, stack, "ws.yaml", *POOLS)


async def test_the_listener_speaks_tls_and_http_2(stack: Stack, client: httpx.AsyncClient) -> None:
    answer = await echo(client, stack, "close")
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")


async def test_a_connection_beyond_the_limit_is_closed(stack: Stack) -> None:
    asked = await asyncio.gather(*(connect(stack) for _ in range(5)), return_exceptions=True)
    refused = [one for one in asked if isinstance(one, ConnectionError | ssl.SSLError)]
    taken = [one for one in asked if isinstance(one, tuple)]
    assert 0 < len(taken) <= 3
    assert len(refused) + len(taken) == 5
    for _, writer in taken:
        writer.close()


async def answered(client: httpx.AsyncClient, stack: Stack, tokens: int, pause: float) -> bytes:
    """A streamed answer, up to where Envoy ends it."""
    url = f"{stack.pool_url('close')}/v1/chat/completions"
    # Not the endpoint that is dead: after a retry Envoy may not start the timeout of the route.
    alive = {"test-epp-endpoint-selection": stack.endpoints[0]}
    request = {"stream": True, "max_tokens": tokens, "token_interval_ms": pause * 1000}
    seen = b""
    try:
        async with client.stream("POST", url, json=request, headers=alive) as answer:
            async for piece in answer.aiter_bytes():
                seen += piece
    except httpx.HTTPError:
        pass
    return seen


async def test_a_silent_stream_ends_after_the_idle_timeout_and_a_long_one_after_the_other(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    whole, silent, long = await asyncio.gather(
        answered(client, stack, 4, 0.5),
        answered(client, stack, 1, 20),
        answered(client, stack, 60, 0.5),
    )
    assert whole.endswith(b"[DONE]\n\n")
    assert silent.count(b"data:") == 1
    assert 1 < long.count(b"data:") < 60
