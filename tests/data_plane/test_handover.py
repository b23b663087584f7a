"""Who asks a relay what endpoints it knows costs it little, even one who never reads the answers."""

from types import MappingProxyType

from epp_client.data_plane.handover import UNREAD, Handover
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.known import read_known
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.wire.status import CANCELLED, OK, RESOURCE_EXHAUSTED, Status
from epp_client.wire.transport import Stream, StreamEvents

POOL = PoolName("default", "llama")


class Reader(Stream):
    """A stream to somebody who reads, or not before he is told to."""

    def __init__(self, handover: Handover, *, reads: bool) -> None:
        self.sent: list[bytes] = []
        self.status: Status | None = None
        self._reads = reads
        self.owner: StreamEvents = handover.accept(self)
        self.owner.half_closed()

    def send(self, message: bytes) -> None:
        self.sent.append(message)
        if not self._reads:
            self.owner.pause_writing()

    def finish(self, status: Status = OK) -> None:
        self.status = status


def handover() -> Handover:
    store = PoolStore()
    one = Endpoint("10.0.0.1:8000", "10.0.0.1", 8000, "pod")
    table = EndpointTable(MappingProxyType({one.key: one}), 1)
    store.publish({POOL: PoolSnapshot(InferencePool(POOL, (("a", "b"),), (8000,)), table)})
    return Handover(store)


def test_all_who_read_are_told() -> None:
    told = handover()
    for reader in [Reader(told, reads=True) for _ in range(3 * UNREAD)]:
        assert reader.status == OK
        assert set(read_known(reader.sent)) == {POOL}


def test_of_those_who_do_not_read_some_are_told_until_they_do_or_go() -> None:
    told = handover()
    slow = [Reader(told, reads=False) for _ in range(UNREAD)]
    assert {reader.status for reader in slow} == {None}
    refused = Reader(told, reads=True)
    assert refused.status is not None
    assert refused.status.code == RESOURCE_EXHAUSTED
    assert refused.sent == []
    slow[0].owner.resume_writing()
    assert slow[0].status == OK
    assert Reader(told, reads=True).status == OK
    slow[1].owner.closed(Status(CANCELLED))
    slow[1].owner.closed(Status(CANCELLED))
    slow[0].owner.resume_writing()
    assert told.unread == 0
