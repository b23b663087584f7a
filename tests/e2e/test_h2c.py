"""HTTP/2 from end to end: trailers both ways, and gRPC."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
import pytest_asyncio
from grpc import aio

from epp_client.settings import TransportName
from testbed.conversation import Record
from testbed.grpc_model import CHAT, ECHO, REPEAT, running_grpc_model
from testbed.stack import Stack, inference_pool, pod, running_stack
from tests.e2e.h2_peer import Message, h2_request, h2_server
from tests.e2e.tools import (
    add_objects,
    echo,
    ext_proc_service,
    record_of,
    recording_picker,
    settled,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

ANSWER = Message(
    {"content-type": "text/plain"}, b"hello from h2", {"x-checksum": "abc", "x-tokens": "7"}
)
MODES = {"relay-t": "relay", "observe-t": "observe", "skip-t": "skip"}


def h2c_pool(name: str, port: int, picker: str | None, mode: str, app: str) -> dict[str, Any]:
    """A FailClose pool over h2c whose Pods are labelled `app`."""
    return inference_pool(
        name,
        port,
        picker,
        "FailClose",
        selector={"matchLabels": {"app": app}},
        appProtocol="kubernetes.io/h2c",
        annotations={"epp-client.dev/response-mode": mode},
    )


class Peers:
    """The upstreams of this module, and what they and the picker have seen."""

    def __init__(self, stack: Stack, requests: list[Message], records: list[Record]) -> None:
        self.stack = stack
        self.requests = requests
        self.records = records
        self.grpc_endpoint = ""
        self.grpc_records: list[Record] = []
        self.begun: defaultdict[str, asyncio.Event]
        """Set when the upstream has got a part of the body of the request with this `x-mark`."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def peers(transport: TransportName) -> AsyncIterator[Peers]:
    async with AsyncExitStack() as owner:
        begun: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        port, requests = await owner.enter_async_context(
            h2_server(
                "127.0.0.21", ANSWER, lambda seen: begun[seen.headers.get("x-mark", "")].set()
            )
        )
        grpc_endpoint = await owner.enter_async_context(running_grpc_model("127.0.0.22:0"))
        stack = await owner.enter_async_context(
            running_stack(
                transport=transport,
                routes_to=[*MODES, "trailers-open", "trailers-local", "grpc", "grpc-open"],
            )
        )
        picker, records = await owner.enter_async_context(
            recording_picker("h2-picker", [f"127.0.0.21:{port}"])
        )
        grpc_picker, grpc_records = await owner.enter_async_context(
            recording_picker("grpc-picker", [grpc_endpoint])
        )
        grpc_port = int(grpc_endpoint.rpartition(":")[2])
        open_pools = [
            h2c_pool("grpc-open", grpc_port, "grpc-picker", "relay", "grpc"),
            h2c_pool("trailers-open", port, "h2-picker", "relay", "trailers"),
        ]
        for item in open_pools:
            item["spec"]["endpointPickerRef"]["failureMode"] = "FailOpen"
        add_objects(
            stack,
            [
                pod("trailers", "127.0.0.21", app="trailers"),
                pod("grpc", "127.0.0.22", app="grpc"),
                *picker,
                *grpc_picker,
                *(
                    h2c_pool(pool, port, "h2-picker", mode, "trailers")
                    for pool, mode in MODES.items()
                ),
                h2c_pool("grpc", grpc_port, "grpc-picker", "relay", "grpc"),
                h2c_pool("trailers-local", port, None, "relay", "trailers"),
                *open_pools,
            ],
        )
        async with httpx.AsyncClient() as client:
            for pool in MODES:
                await until(client, stack, pool, lambda answer: answer.status_code == 200)
        made = Peers(stack, requests, records)
        made.begun = begun
        made.grpc_endpoint = grpc_endpoint
        made.grpc_records = grpc_records
        yield made


@pytest.mark.parametrize("dialect", ["pick-after-body", "ignore-trailers", "common-response"])
@pytest.mark.parametrize("pool", MODES)
async def test_trailers_travel_both_ways(peers: Peers, pool: str, dialect: str) -> None:
    mark = f"{pool}-{dialect}"
    request = Message(
        {"x-picker-dialect": dialect, "x-mark": mark}, b"a prompt", {"x-request-checksum": "123"}
    )
    url = urlsplit(peers.stack.pool_url(pool))
    answer = await h2_request(url.hostname or "", url.port or 0, f"{url.path}/echo", request)
    assert answer.headers[":status"] == "200"
    assert (answer.body, answer.trailers) == (ANSWER.body, ANSWER.trailers)
    [seen] = [item for item in peers.requests if item.headers.get("x-mark") == mark]
    assert (seen.body, seen.trailers) == (request.body, request.trailers)
    record = await record_of(peers.records, mark)
    response_phases = {phase for phase in record.phases if phase.startswith("response")}
    assert bool(response_phases) == (MODES[pool] != "skip")


async def test_a_failing_picker_loses_no_trailers(peers: Peers) -> None:
    """Replayed whole: headers, body, trailers."""
    request = Message(
        {"x-picker-dialect": "die-mid-body", "x-mark": "replayed"}, b"a prompt", {"x-late": "1"}
    )
    url = urlsplit(peers.stack.pool_url("trailers-open"))
    answer = await h2_request(url.hostname or "", url.port or 0, f"{url.path}/echo", request)
    assert (answer.body, answer.trailers) == (ANSWER.body, ANSWER.trailers)
    [seen] = [item for item in peers.requests if item.headers.get("x-mark") == "replayed"]
    assert (seen.body, seen.trailers) == (request.body, request.trailers)


@pytest.mark.parametrize(
    ("pool", "dialect"),
    [
        ("relay-t", "streaming"),
        ("trailers-open", "close-before-pick"),
        ("trailers-open", "silent"),
        ("trailers-local", "streaming"),
    ],
)
async def test_trailers_that_come_after_the_body_has_arrived_do_not_repeat_it(
    peers: Peers, pool: str, dialect: str
) -> None:
    """Envoy sends what a route with retries has kept again, when it continues with the trailers."""
    mark = f"late-{pool}-{dialect}"
    request = Message(
        {"x-picker-dialect": dialect, "x-mark": mark}, b"a prompt", {"x-request-checksum": "123"}
    )
    url = urlsplit(peers.stack.pool_url(pool))
    answer = await h2_request(
        url.hostname or "", url.port or 0, f"{url.path}/echo", request, peers.begun[mark].wait
    )
    assert answer.body == ANSWER.body
    [seen] = [item for item in peers.requests if item.headers.get("x-mark") == mark]
    assert (seen.body, seen.trailers) == (request.body, request.trailers)


def method(peers: Peers, pool: str, name: str) -> str:
    return urlsplit(peers.stack.pool_url(pool)).path + name


@pytest_asyncio.fixture(loop_scope="session")
async def channel(peers: Peers) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(urlsplit(peers.stack.url).netloc) as open_channel:
        yield open_channel


@pytest.mark.parametrize("size", [0, 1_000, 3_000_000])
async def test_a_unary_call(peers: Peers, channel: aio.Channel, size: int) -> None:
    message = b"x" * size
    call = channel.unary_unary(method(peers, "grpc", ECHO))(message)
    assert await call == message
    assert dict(await call.initial_metadata())["x-model-server"] == peers.grpc_endpoint


async def test_a_server_stream(peers: Peers, channel: aio.Channel) -> None:
    call = channel.unary_stream(method(peers, "grpc", REPEAT))
    answers = [answer async for answer in call(b"token", metadata=(("x-count", "50"),))]
    assert answers == [b"token"] * 50


async def test_an_error_of_the_model_comes_through(peers: Peers, channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await channel.unary_stream(method(peers, "grpc", REPEAT))(
            b"x", metadata=(("x-count", "many"),)
        ).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "x-count is not a number"


async def test_a_conversation_flows_while_it_is_still_being_said(
    peers: Peers, channel: aio.Channel
) -> None:
    """The picker has to decide at the headers: nobody waits for the end of a chat."""
    call = channel.stream_stream(method(peers, "grpc", CHAT))(
        metadata=(("x-picker-dialect", "streaming"),)
    )
    for turn in range(10):
        await call.write(b"turn %d" % turn)
        assert await call.read() == b"turn %d" % turn
    await call.done_writing()
    assert await call.read() is aio.EOF


async def test_a_conversation_whose_picker_waits_for_its_end_is_served_without_it(
    peers: Peers, channel: aio.Channel
) -> None:
    """Both ends wait for each other: the deadline runs from when nothing moves."""
    call = channel.stream_stream(method(peers, "grpc-open", CHAT))()
    for turn in (b"hello", b"again"):
        await call.write(turn)
        assert await call.read() == turn
    await call.done_writing()
    assert await call.read() is aio.EOF


async def test_a_conversation_whose_picker_waits_for_its_end_is_refused_under_fail_close(
    peers: Peers, channel: aio.Channel
) -> None:
    call = channel.stream_stream(method(peers, "grpc", CHAT))()
    await call.write(b"hello")
    with pytest.raises(aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "did not answer in time" in (caught.value.details() or "")


async def test_a_conversation_that_is_broken_off_leaves_nothing(
    peers: Peers, channel: aio.Channel
) -> None:
    """An HTTP/2 reset while the connection stays: in the sidecar and at the picker all is over."""
    service = ext_proc_service(peers.stack)
    await settled(peers.stack)
    call = channel.stream_stream(method(peers, "grpc", CHAT))(
        metadata=(("x-picker-dialect", "streaming"), ("x-mark", "broken-off"))
    )
    await call.write(b"hello")
    assert await call.read() == b"hello"
    assert service.open_sessions == 1
    assert call.cancel()
    await settled(peers.stack)
    assert service.budget.used == 0
    await record_of(peers.grpc_records, "broken-off")
    assert await channel.unary_unary(method(peers, "grpc", ECHO))(b"still here") == b"still here"


async def test_a_refusal_is_a_grpc_status(peers: Peers, channel: aio.Channel) -> None:
    call = channel.unary_unary(method(peers, "grpc", ECHO))(
        b"hello", metadata=(("x-picker-dialect", "pick-outside"),)
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "outside the InferencePool" in (caught.value.details() or "")
    headers = {**dict(await call.initial_metadata()), **dict(await call.trailing_metadata())}
    assert headers["x-inference-error"] == "pick_outside_pool"


async def test_failing_open_keeps_the_message(peers: Peers, channel: aio.Channel) -> None:
    message = b"y" * 200_000
    call = channel.unary_unary(method(peers, "grpc-open", ECHO))(
        message, metadata=(("x-picker-dialect", "die-mid-body"),)
    )
    assert await call == message


async def test_clients_may_speak_h2c(peers: Peers) -> None:
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        answer = await echo(client, peers.stack, "close", b"over h2")
    assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
    assert answer.json()["size"] == 7
