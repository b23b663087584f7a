"""Which streams the service admits, and what the others are told."""

import pytest

from epp_client.errors import Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingResponse
from epp_client.picker.client import PROCESS, PickerClients
from epp_client.pool.store import PoolStore
from epp_client.relay.counters import Counters
from epp_client.sidecar.ext_proc_service import ExtProcService
from epp_client.wire.native import NativeTransport
from epp_client.wire.transport import OK, Status, Stream

from ..relay.conversation import request_headers, snapshot


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
    assert made._counters.pool("unknown").refused == {reason: 1}


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
    del made._counters.pools["default/llama"]
    events.half_closed()
    assert (made.open_sessions, made._counters.pools, made.pickers.states()) == (0, {}, {})


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
