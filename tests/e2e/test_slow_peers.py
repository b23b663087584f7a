"""Peers that are slow, on the real Envoy: what nobody takes is not sent, and every wait has an end."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import psutil
import pytest
import pytest_asyncio

from epp_client.settings import TransportName
from testbed.link import Link, Mode
from testbed.picker import start_picker
from testbed.stack import HOSTS, Stack, inference_pool, pod, running_stack, service
from tests.e2e import flood
from tests.e2e.tools import (
    add_objects,
    echo,
    ext_proc_service,
    recording_picker,
    remove_objects,
    settled,
    until,
)

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

PIECE = os.urandom(64 * 1024)
UPLOAD = 2400
"""Pieces: 157 MB, about five times what kernel, Envoy (16 MiB, to retry with) and sidecar hold together."""
HALF = UPLOAD * len(PIECE) // 2
SLOW_DRIP, FAST_DRIP = 0.1, 0.0
"""Seconds for a byte: of an answer of some hundred bytes half a minute, or a turn of the event loop for
each, as a health check has one second."""


class SlowUpstream:
    """An HTTP/1.1 server that reads a chunked request only when it may."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.begun = asyncio.Event()
        self.digest = hashlib.sha256()
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, HOSTS[0], 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            self.may_read.set()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.begun.set()
                self.digest = hashlib.sha256()
                await self.may_read.wait()
                while size := int(await reader.readline(), 16):
                    self.digest.update(await reader.readexactly(size))
                    await reader.readline()
                await reader.readline()
                answer = self.digest.hexdigest().encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName) -> AsyncIterator[Stack]:
    routes = ["upstream", "open-dripped", "close-dripped"]
    async with running_stack(transport=transport, routes_to=routes) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def upstream(stack: Stack, client: httpx.AsyncClient) -> AsyncIterator[SlowUpstream]:
    """A pool `upstream` with one slow endpoint, and a picker that answers as the body comes."""
    slow = SlowUpstream()
    async with slow.listening():
        endpoint = f"{HOSTS[0]}:{slow.port}"
        async with recording_picker("picker-upstream", [endpoint], ["streaming"]) as (objects, _):
            member = pod("slow", HOSTS[0], app="slow")
            selector = {"matchLabels": {"app": "slow"}}
            pool = inference_pool(
                "upstream", slow.port, "picker-upstream", "FailClose", selector=selector
            )
            add_objects(stack, [pool, member, *objects], "upstream.yaml")
            slow.may_read.set()
            await until(client, stack, "upstream", lambda answer: answer.status_code == 200)
            slow.may_read.clear()
            slow.begun.clear()
            yield slow
            await remove_objects(client, stack, "upstream.yaml", "upstream")


async def stands_still(number: Callable[[], int]) -> None:
    """Until a number has not grown for a second: everybody waits for somebody."""
    still = 0
    async with asyncio.timeout(60):
        while still < 20:
            last = number()
            await asyncio.sleep(0.05)
            still = still + 1 if number() <= last else 0


async def test_an_upstream_that_does_not_read_stops_a_large_upload_and_leaves_memory_flat(
    stack: Stack, client: httpx.AsyncClient, upstream: SlowUpstream
) -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(UPLOAD):
            yield PIECE
            sent += 1

    us, envoy = psutil.Process(), psutil.Process(stack.envoy.process.pid)
    before, envoy_before = us.memory_info().rss, envoy.memory_info().rss
    url = stack.pool_url("upstream") + "/upload"
    request = asyncio.create_task(client.post(url, content=pieces(), timeout=120))
    async with asyncio.timeout(60):
        await upstream.begun.wait()
    await stands_still(lambda: sent)
    assert not request.done()
    assert sent < UPLOAD // 2
    # Sidecar and client are this process, and hold what was sent: 23 to 46 MB; 80 MB on a busy machine.
    assert us.memory_info().rss - before < HALF * 3 // 2
    assert envoy.memory_info().rss - envoy_before < HALF
    upstream.may_read.set()
    answer = await request
    whole = hashlib.sha256()
    for _ in range(UPLOAD):
        whole.update(PIECE)
    assert (answer.status_code, answer.text) == (200, whole.hexdigest())
    await settled(stack)
    assert ext_proc_service(stack).budget.used == 0


FLOOD = 480_000_000 // len(flood.PIECE)


@pytest.mark.parametrize("direction", ["request", "response"])
async def test_a_picker_that_answers_480_mb_to_one_request_does_not_fill_envoy(
    stack: Stack, client: httpx.AsyncClient, direction: str
) -> None:
    """Envoy reads from ext_proc whatever its own peers take: nothing but a bound of ours ends that."""
    slow = SlowUpstream()
    async with slow.listening():
        picker = flood.FloodingPicker(f"{HOSTS[0]}:{slow.port}", FLOOD)
        async with picker.listening():
            member = pod("slow", HOSTS[0], app="slow")
            pool = inference_pool(
                "upstream",
                slow.port,
                "picker-flood",
                "FailClose",
                selector={"matchLabels": {"app": "slow"}},
            )
            objects = [pool, member, *service("picker-flood", picker.address)]
            add_objects(stack, objects, "upstream.yaml")
            await pool_is_there(client, stack, "upstream", picker.address)
            envoy = psutil.Process(stack.envoy.process.pid)
            before = envoy.memory_info().rss
            if direction == "response":
                slow.may_read.set()
            host, _, port = stack.url.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
            head = b"host: x\r\ntransfer-encoding: chunked\r\n"
            head += b"x-flood: response\r\n" if direction == "response" else b""
            writer.write(
                b"POST /default/upstream/x HTTP/1.1\r\n" + head + b"\r\n5\r\nhello\r\n0\r\n\r\n"
            )
            async with asyncio.timeout(60):
                await picker.ended.wait()
            assert picker.sent < FLOOD // 5
            assert envoy.memory_info().rss - before < FLOOD * len(flood.PIECE) // 5
            assert ext_proc_service(stack).budget.used <= 32 * 1024 * 1024
            # a client that reads nothing
            del reader
            writer.transport.abort()
            await settled(stack)
            assert ext_proc_service(stack).budget.used == 0
    await remove_objects(client, stack, "upstream.yaml", "upstream")


async def pool_is_there(client: httpx.AsyncClient, stack: Stack, name: str, picker: str) -> None:
    """Until the sidecar has a pool with this picker, and has reached it."""
    url = f"http://{stack.sidecar.admin_address}/pools/default/{name}"
    async with asyncio.timeout(60):
        while True:
            answer = await client.get(url)
            # Not the picker of the test before, whose pool has the same name.
            if (
                answer.status_code == 200
                and answer.json()["picker"]["health"].get(picker) == "unknown"
            ):
                return
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(loop_scope="session")
async def dripping(stack: Stack, client: httpx.AsyncClient) -> AsyncIterator[Link]:
    """Pools `open-dripped` and `close-dripped`, and the link to their picker, which is good so far."""
    async with AsyncExitStack() as owner:
        link = Link(0, drip_bytes=1)
        server, address = await start_picker("127.0.0.1:0", stack.endpoints)
        owner.push_async_callback(server.stop, 0)
        await link.up(address)
        owner.push_async_callback(link.down)
        port = int(stack.endpoints[0].rpartition(":")[2])
        pools = [
            inference_pool(f"{mode}-dripped", port, "picker-dripped", f"Fail{mode.capitalize()}")
            for mode in ("open", "close")
        ]
        add_objects(stack, [*pools, *service("picker-dripped", link.address)], "dripped.yaml")
        for pool in ("open-dripped", "close-dripped"):
            await until(client, stack, pool, lambda answer: answer.status_code == 200)
        yield link
        await remove_objects(client, stack, "dripped.yaml", "open-dripped", "close-dripped")


BODY = os.urandom(200_000)


def _is_whole(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.json()["sha256"] == hashlib.sha256(BODY).hexdigest()


async def test_a_picker_that_drips_byte_by_byte_costs_fail_open_nothing_but_the_deadline(
    stack: Stack, client: httpx.AsyncClient, dripping: Link
) -> None:
    dripping.drip_pause = SLOW_DRIP
    dripping.set_mode(Mode.DRIP)
    answers = await asyncio.gather(
        *(echo(client, stack, "open-dripped", BODY) for _ in range(4)),
        *(echo(client, stack, "close-dripped", BODY) for _ in range(4)),
    )
    assert all(map(_is_whole, answers[:4]))
    refused = {(a.status_code, a.headers["x-inference-error"]) for a in answers[4:]}
    # Whichever comes first: the deadline, or the health checks, which drip as well.
    assert refused <= {(503, "picker_timeout"), (503, "picker_unhealthy")}
    await settled(stack)
    assert ext_proc_service(stack).budget.used == 0


async def test_a_picker_that_drips_byte_by_byte_in_time_is_listened_to(
    stack: Stack, client: httpx.AsyncClient, dripping: Link
) -> None:
    dripping.drip_pause = FAST_DRIP
    dripping.set_mode(Mode.DRIP)
    # Under FailClose, and towards one endpoint: nobody but the picker can have said so.
    chosen = stack.endpoints[1]
    for _ in range(3):
        answer = await echo(
            client, stack, "close-dripped", b"hello", test_epp_endpoint_selection=chosen
        )
        assert (answer.status_code, answer.headers["x-model-server"]) == (200, chosen)


async def test_a_picker_that_begins_to_drip_in_a_response_does_not_hold_it_up(
    stack: Stack, client: httpx.AsyncClient, dripping: Link
) -> None:
    """It gets `response_timeout` once; the rest of the tokens pass it by."""
    dripping.drip_pause = SLOW_DRIP
    url = stack.pool_url("close-dripped") + "/v1/chat/completions"
    tokens = {"x-max-tokens": "30", "x-interval-ms": "20"}
    events: list[str] = []
    async with client.stream("POST", url, json={"stream": True}, headers=tokens) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                events.append(line)
            if len(events) == 1:
                dripping.set_mode(Mode.DRIP)
    assert len(events) == 31, "30 tokens and [DONE]"
    assert events[-1] == "data: [DONE]"
    await settled(stack)
