"""Which streams the service admits, and what the others are told."""

import pytest

from epp_client.data_plane.service import ExtProcService
from epp_client.errors import Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import HeadersResponse, ProcessingResponse
from epp_client.metrics.counters import Counters
from epp_client.picker.client import PROCESS, PickerClients
from epp_client.pool.store import PoolStore
from epp_client.relay.outcome import Outcome
from epp_client.wire.native import NativeTransport
from epp_client.wire.status import OK, Status
from epp_client.wire.transport import Stream

from ..relay.conversation import body, request_headers, response_headers, snapshot


class EnvoyStream(Stream):
    """An Envoy stream that remembers what it was told."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.status: Status | None = None

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def finish(self, status: Status = OK) -> None:
        self.status = status

    def cancel(self) -> None:
        self.status = Status(1)

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def service(*, synced: bool = True, max_exchanges: int = 10) -> ExtProcService:
    store = PoolStore()
    made = ExtProcService(
        store,
        PickerClients(NativeTransport()),
        Counters(),
        max_exchanges=max_exchanges,
        max_retained_total=1 << 20,
    )
    if synced:
        pool = snapshot(picker=False)
        store.publish({pool.pool.name: pool})
    return made


def refusal(made: ExtProcService, pool: str | None) -> str:
    stream = EnvoyStream()
    metadata = {} if pool is None else {"x-inference-pool": pool}
    made.accept(stream, PROCESS, metadata).message_received(request_headers(end=True))
    [raw] = stream.sent
    assert stream.status == OK
    headers = ProcessingResponse.FromString(raw).immediate_response.headers.set_headers
    return next(o.header.raw_value.decode() for o in headers if o.header.key == "x-inference-error")


@pytest.mark.parametrize(
    ("pool", "synced", "reason"),
    [
        (None, True, Reason.POOL_NOT_NAMED),
        ("default/none", True, Reason.POOL_UNKNOWN),
        ("default/llama", False, Reason.POOL_NOT_SYNCED),
    ],
)
async def test_streams_of_no_known_pool(pool: str | None, synced: bool, reason: Reason) -> None:
    made = service(synced=synced)
    assert refusal(made, pool) == reason
    assert made.account.counters.pool("unknown").refused == {reason: 1}


async def test_more_exchanges_than_allowed_are_refused() -> None:
    made = service(max_exchanges=1)
    first = EnvoyStream()
    events = made.accept(first, PROCESS, {"x-inference-pool": "default/llama"})
    assert refusal(made, "default/llama") == Reason.OVERLOADED
    events.half_closed()
    assert made.open_sessions == 0
    again = made.accept(EnvoyStream(), PROCESS, {"x-inference-pool": "default/llama"})
    again.half_closed()


async def test_a_request_that_outlives_its_pools_numbers_leaves_none() -> None:
    made = service()
    events = made.accept(EnvoyStream(), PROCESS, {"x-inference-pool": "default/llama"})
    events.message_received(request_headers())
    made.store.publish({})
    del made.account.counters.pools["default/llama"]
    events.half_closed()
    assert (made.open_sessions, made.account.counters.pools, made.pickers.states()) == (0, {}, {})


async def test_a_broken_envoy_is_told_so() -> None:
    made = service()
    stream = EnvoyStream()
    made.accept(stream, PROCESS, {"x-inference-pool": "default/llama"}).message_received(b"\xff")
    assert stream.sent
    assert made.open_sessions == 0


async def test_another_method_is_unimplemented() -> None:
    stream = EnvoyStream()
    service().accept(stream, "/other.Service/Call", {})
    assert stream.status is not None
    assert stream.status.code == 12


@pytest.mark.parametrize("pool", [None, "default/ghost", "default/llama"])
@pytest.mark.parametrize("synced", [True, False])
async def test_a_local_reply_passes_whatever_pool_it_names(pool: str | None, synced: bool) -> None:
    made, stream = service(synced=synced, max_exchanges=0), EnvoyStream()
    owner = made.accept(stream, PROCESS, {} if pool is None else {"x-inference-pool": pool})
    owner.message_received(response_headers())
    owner.message_received(body(b"denied", True, response=True))
    owner.half_closed()
    headers, reply = (ProcessingResponse.FromString(raw) for raw in stream.sent)
    assert headers == ProcessingResponse(response_headers=HeadersResponse())
    streamed = reply.response_body.response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (b"denied", True)
    assert stream.status == OK
    [counted] = made.account.counters.pools.values()
    assert {name: n for name, n in counted.outcomes.items() if n} == {Outcome.LOCAL_REPLY: 1}
    assert not counted.refused
    made.close()


async def test_a_refusal_is_counted_once_and_a_client_that_goes_first_is_none() -> None:
    made = service(synced=False)
    refused = made.accept(EnvoyStream(), PROCESS, {})
    refused.message_received(request_headers())
    refused.message_received(body(b"x"))
    refused.closed(Status(1))
    made.accept(EnvoyStream(), PROCESS, {}).closed(Status(1))
    [counted] = made.account.counters.pools.values()
    outcomes = {name: n for name, n in counted.outcomes.items() if n}
    assert outcomes == {Outcome.REFUSED: 1, Outcome.CANCELLED: 1}
    assert counted.refused == {Reason.POOL_NOT_NAMED: 1}
    made.close()
