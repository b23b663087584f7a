"""Pickers that drip, never read, never answer or answer gigabytes: over our own wire, on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from epp_client.data_plane.service import ExtProcService
from epp_client.errors import Reason
from epp_client.ext_proc.messages import Answer, read_reply
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingResponse
from epp_client.metrics.counters import Counters
from epp_client.picker.client import PROCESS, PickerClients
from epp_client.picker.health import FAILURES, Health
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.snapshot import PickerTarget
from epp_client.pool.store import PoolStore
from epp_client.relay.outcome import Outcome
from epp_client.wire.http2.inbox import STREAM_WINDOW
from epp_client.wire.native import NativeTransport
from epp_client.wire.status import OK, UNAVAILABLE, UNIMPLEMENTED, Status
from epp_client.wire.transport import NO_OWNER, Stream, StreamEvents

from ..relay.conversation import (
    body,
    immediate,
    picked,
    request_headers,
    response_headers,
    snapshot,
    streamed,
)

POOL = "default/llama"
MEMBER = "10.0.0.1:8000"
CHUNK = 100_000


class Envoy(Stream):
    """An Envoy stream that remembers what it was told."""

    def __init__(self) -> None:
        self.body = 0
        self.response = 0
        """Answers to the response."""
        self.ended = False
        self.refusal: ProcessingResponse | None = None
        self.reading = True
        self.events: StreamEvents

    def send(self, message: bytes) -> None:
        reply = read_reply(message)
        if reply.answer is Answer.IMMEDIATE:
            self.refusal = ProcessingResponse.FromString(message)
        elif reply.answer is Answer.REQUEST_BODY:
            self.body += reply.end - reply.start
            self.ended = self.ended or reply.end_of_stream
        elif reply.answer is Answer.RESPONSE_HEADERS:
            self.response += 1

    def finish(self, status: Status = OK) -> None:
        self.ended = True

    def cancel(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    async def upload(self, chunks: int) -> None:
        """A request of so many chunks, for as long as it is read."""
        self.events.message_received(request_headers())
        for _ in range(chunks):
            await until(lambda: self.reading)
            self.events.message_received(body(b"x" * CHUNK))
        self.events.message_received(body(b"", end=True))


Behave = Callable[[Stream], None]


class Picker(StreamEvents):
    """Owner of one ext_proc stream on the picker's side."""

    def __init__(self, stream: Stream, behave: Behave) -> None:
        self.stream, self._behave = stream, behave
        self.told = 0
        self.open = True

    def message_received(self, message: bytes) -> None:
        self.told += 1
        if self.told == 1:
            self._behave(self.stream)

    def half_closed(self) -> None:
        self.open = False

    def closed(self, status: Status) -> None:
        self.open = False

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass


@dataclass
class Rig:
    """A sidecar's service between an Envoy of ours and a picker of ours."""

    service: ExtProcService
    pickers: PickerClients
    counters: Counters
    store: PoolStore
    streams: list[Picker] = field(default_factory=list)
    behave: Behave = lambda stream: None

    def accept(self, stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        """The picker's side."""
        if path != PROCESS:
            stream.finish(Status(UNIMPLEMENTED, "no health here"))
            return NO_OWNER
        self.streams.append(picker := Picker(stream, self.behave))
        return picker

    def envoy(self) -> Envoy:
        envoy = Envoy()
        envoy.events = self.service.accept(envoy, PROCESS, {"x-inference-pool": POOL})
        return envoy

    @property
    def health(self) -> Health:
        [state] = self.pickers.states()[POOL].values()
        return state

    async def ask(self, *messages: bytes) -> Envoy:
        """One request to its decision."""
        envoy = self.envoy()
        for message in messages:
            envoy.events.message_received(message)
        await until(lambda: envoy.ended)
        envoy.events.half_closed()
        return envoy


@asynccontextmanager
async def rig(
    mode: FailureMode = FailureMode.FAIL_OPEN, retained_total: int = 1 << 30, **settings: Any
) -> AsyncIterator[Rig]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{sock.getsockname()[1]}"
    values: dict[str, Any] = {
        "pick_timeout": 0.6,
        "connect_timeout": 5.0,
        "tls": {"mode": "plaintext"},
        **settings,
    }
    store, counters = PoolStore(), Counters()
    pickers = PickerClients(NativeTransport())
    service = ExtProcService(
        store, pickers, counters, max_exchanges=3000, max_retained_total=retained_total
    )
    made = Rig(service, pickers, counters, store)
    server = await NativeTransport().serve_socket(sock, made.accept)
    pool = replace(snapshot(mode, **values), picker=PickerTarget((address,)))
    store.publish({pool.pool.name: pool})
    try:
        await until(lambda: made.health is Health.UNKNOWN)
        yield made
        await until(lambda: service.open_sessions == 0)
        assert service.budget.used == 0
    finally:
        service.close()
        await pickers.close()
        await server.drain(0)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


POST = (request_headers(), body(b"hello", end=True))


def pick(stream: Stream) -> None:
    stream.send(picked(MEMBER))
    stream.send(streamed(b"a", True))


async def test_one_that_never_answers_costs_deadlines_until_it_is_shut_out() -> None:
    async with rig() as made:
        for _ in range(FAILURES):
            assert made.health is Health.UNKNOWN
            await made.ask(*POST)
        assert made.health in (Health.FAILING, Health.TRIAL)
        seen = made.counters.pool(POOL)
        assert seen.failed_open == {Reason.PICKER_TIMEOUT: FAILURES}
        if made.health is Health.FAILING:
            await made.ask(*POST)
            assert Reason.PICKER_UNHEALTHY in seen.failed_open
        made.behave = pick
        await until(lambda: made.health is Health.TRIAL)
        await made.ask(*POST)
        assert str(made.health) == Health.UNKNOWN
        assert seen.outcomes[Outcome.STEERED] == 1


async def test_who_waits_when_it_is_shut_out_waits_no_longer() -> None:
    async with rig() as made:
        first = [made.envoy() for _ in range(FAILURES)]
        for envoy in first:
            for message in POST:
                envoy.events.message_received(message)
        await until(lambda: len(made.streams) >= FAILURES)
        later = [made.envoy() for _ in range(20)]
        for envoy in later:
            # has no deadline: it is not whole
            envoy.events.message_received(request_headers())
        await until(lambda: all(envoy.ended for envoy in first))
        for envoy in later:
            envoy.events.message_received(body(b"hello", end=True))
        await until(lambda: all(envoy.ended for envoy in later))
        for envoy in (*first, *later):
            envoy.events.half_closed()
        reasons = made.counters.pool(POOL).failed_open
        assert reasons == {Reason.PICKER_TIMEOUT: FAILURES, Reason.PICKER_UNHEALTHY: 20}


async def test_one_that_drips_answers_has_a_deadline() -> None:
    def drip(stream: Stream) -> None:
        async def forever() -> None:
            while made.streams and made.streams[-1].open:
                stream.send(streamed(b"x"))
                await asyncio.sleep(0.01)

        dripping.append(asyncio.create_task(forever()))

    dripping: list[asyncio.Task[None]] = []
    async with rig() as made:
        made.behave = drip
        envoy = await made.ask(*POST)
        assert envoy.body == len(b"hello")
        assert made.counters.pool(POOL).failed_open == {Reason.PICKER_TIMEOUT: 1}
        await asyncio.gather(*dripping)


async def test_one_that_never_reads_stops_the_upload_and_has_a_deadline() -> None:
    async with rig() as made:
        made.behave = lambda stream: stream.pause_reading()
        envoy = made.envoy()
        uploading = asyncio.create_task(envoy.upload(30))
        await until(lambda: not envoy.reading)
        held = made.service.budget.used
        assert held < STREAM_WINDOW + 4 * CHUNK
        await uploading
        await until(lambda: envoy.ended)
        envoy.events.half_closed()
        assert envoy.body == 30 * CHUNK, "whole"
        assert made.counters.pool(POOL).failed_open == {Reason.PICKER_TIMEOUT: 1}


async def test_gigabytes_for_an_answer_are_cut_off_at_the_bound() -> None:
    def flood(stream: Stream) -> None:
        for _ in range(400):
            stream.send(streamed(b"y" * CHUNK))

    async with rig(max_retained_body=2_000_000, pick_timeout=30.0) as made:
        made.behave = flood
        envoy = made.envoy()
        for message in POST:
            envoy.events.message_received(message)
        most = 0
        async with asyncio.timeout(60):
            while not envoy.ended:
                most = max(most, made.service.budget.used)
                await asyncio.sleep(0)
        envoy.events.half_closed()
        assert most < 2_000_000 + 3 * CHUNK
        assert envoy.body == len(b"hello")
        assert made.counters.pool(POOL).failed_open == {Reason.PICKER_PROTOCOL: 1}


async def test_gigabytes_of_a_rewritten_body_wait_for_a_slow_envoy() -> None:
    def rewrite(stream: Stream) -> None:
        stream.send(picked(MEMBER))
        for _ in range(150):
            stream.send(streamed(b"y" * CHUNK))
        stream.send(streamed(b"", end=True))

    async with rig(max_retained_body=1_000_000, pick_timeout=30.0) as made:
        made.behave = rewrite
        envoy = made.envoy()
        for message in POST:
            envoy.events.message_received(message)
        await until(lambda: envoy.body > 0)
        envoy.events.pause_writing()
        held = envoy.body
        for _ in range(200):
            await asyncio.sleep(0)
        assert envoy.body <= held + STREAM_WINDOW + CHUNK
        envoy.events.resume_writing()
        await until(lambda: envoy.ended)
        envoy.events.half_closed()
        assert envoy.body == 150 * CHUNK
        assert made.counters.pool(POOL).outcomes[Outcome.STEERED] == 1


async def test_what_all_may_keep_together_is_bounded_and_counted() -> None:
    async with rig(retained_total=3 * CHUNK) as made:
        first, second = made.envoy(), made.envoy()
        for envoy in (first, second):
            envoy.events.message_received(request_headers())
            for _ in range(2):
                envoy.events.message_received(body(b"x" * CHUNK))
            assert made.service.budget.used <= 3 * CHUNK
        for envoy in (first, second):
            envoy.events.message_received(body(b"", end=True))
            await until(lambda envoy=envoy: envoy.ended)
            envoy.events.half_closed()
        seen = made.counters.pool(POOL)
        assert seen.not_retained == 1
        assert seen.refused == {Reason.BODY_NOT_RETAINED: 1}
        assert seen.failed_open == {Reason.PICKER_TIMEOUT: 1}
        assert second.refusal is not None


@pytest.mark.parametrize("answer", [immediate(429), immediate(503), picked("192.0.2.9:8000")])
async def test_no_answer_shuts_a_picker_out(answer: bytes) -> None:
    async with rig(endpoint_wait=0.0) as made:
        made.behave = lambda stream: stream.send(answer)
        for _ in range(3 * FAILURES):
            await made.ask(*POST)
        assert made.health is Health.UNKNOWN


async def test_clients_that_hang_up_shut_no_picker_out() -> None:
    async with rig() as made:
        for index in range(3 * FAILURES):
            envoy = made.envoy()
            envoy.events.message_received(request_headers())
            await until(lambda index=index: len(made.streams) > index)
            envoy.events.closed(Status(1, "gone"))
        assert made.health is Health.UNKNOWN
        assert made.counters.pool(POOL).outcomes[Outcome.CANCELLED] == 3 * FAILURES


async def test_a_stream_that_is_refused_is_asked_again_and_counted() -> None:
    async with rig(FailureMode.FAIL_CLOSE) as made:
        refused = 0

        def twice(stream: Stream) -> None:
            nonlocal refused
            refused += 1
            if refused <= 2:
                stream.cancel()
            else:
                stream.send(picked(MEMBER))
                stream.send(streamed(b"hello", end=True))

        made.behave = twice
        envoy = await made.ask(*POST)
        assert envoy.refusal is None
        assert envoy.body == len(b"hello")
        assert made.counters.pool(POOL).retries == 2


async def test_a_response_that_waits_for_its_picker_goes_on_before_the_drain_cuts_it() -> None:
    async with rig(FailureMode.FAIL_CLOSE, response_timeout=60.0) as made:
        made.behave = pick
        envoy = made.envoy()
        for message in POST:
            envoy.events.message_received(message)
        await until(lambda: bool(envoy.body))
        envoy.events.message_received(response_headers())
        assert envoy.response == 0
        made.service.hurry()
        assert envoy.response == 1
        envoy.events.half_closed()
        assert made.counters.pool(POOL).passthrough == {Reason.PICKER_TIMEOUT: 1}


async def test_a_picker_that_says_unavailable_itself_has_answered() -> None:
    """GAIE's lwepp ends streams so when it has no endpoint; asked again it says the same."""
    async with rig(FailureMode.FAIL_CLOSE) as made:
        made.behave = lambda stream: stream.finish(Status(UNAVAILABLE, "no endpoints"))
        for _ in range(2 * FAILURES):
            envoy = await made.ask(*POST)
            assert envoy.refusal is not None
            assert envoy.refusal.immediate_response.details == "epp_client_picker_error"
        counters = made.counters.pool(POOL)
        assert (counters.retries, counters.refused) == (0, {Reason.PICKER_ERROR: 2 * FAILURES})
        assert made.health is Health.UNKNOWN
