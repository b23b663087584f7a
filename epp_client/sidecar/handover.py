"""What a relay tells the control process that takes over from its own: the endpoints it may still pick.

One unary call on the relay's own socket, which only those may open who may ask for picks.
"""

from typing import Final

from epp_client.pool.known import write_known
from epp_client.pool.store import PoolStore
from epp_client.wire.stream import NoOwner
from epp_client.wire.transport import OK, Stream

KNOWN_ENDPOINTS: Final = "/epp_client.Handover/KnownEndpoints"


class SayKnownEndpoints(NoOwner):
    """Owner of one call; its request says nothing."""

    __slots__ = ("_store", "_stream")

    def __init__(self, stream: Stream, store: PoolStore) -> None:
        self._stream = stream
        self._store = store

    def half_closed(self) -> None:
        self._stream.send(write_known(self._store.snapshots))
        self._stream.finish(OK)
