"""Tells the next control process which endpoints this relay may still pick.

It is a unary call on the relay's own socket. Only processes that may ask for picks can open that socket.
"""

from typing import Final

from epp_client.pool.known import write_known
from epp_client.pool.store import PoolStore
from epp_client.wire.status import OK, RESOURCE_EXHAUSTED, Status
from epp_client.wire.transport import NoOwner, Stream, StreamEvents

KNOWN_ENDPOINTS: Final = "/epp_client.Handover/KnownEndpoints"
UNREAD: Final = 2
"""Largest number of answers that wait to be read. Those of large pools have megabytes."""


class Handover:
    """The handover service of one relay."""

    def __init__(self, store: PoolStore) -> None:
        self.store = store
        self.unread = 0

    def accept(self, stream: Stream) -> StreamEvents:
        """Take a new call."""
        return _KnownEndpoints(self, stream)


class _KnownEndpoints(NoOwner):
    """Owner of one call. Its request is empty."""

    __slots__ = ("_handover", "_paused", "_stream", "_unread")

    def __init__(self, handover: Handover, stream: Stream) -> None:
        self._handover = handover
        self._stream = stream
        self._paused = False
        self._unread = False

    def half_closed(self) -> None:
        if self._handover.unread >= UNREAD:
            self._stream.finish(Status(RESOURCE_EXHAUSTED, "too many calls at once; try again"))
            return
        self._handover.unread += 1
        self._unread = True
        self._stream.send(write_known(self._handover.store.snapshots))
        if not self._paused:
            self._read()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._read()

    def _read(self) -> None:
        self._forget()
        self._stream.finish(OK)

    def _forget(self) -> None:
        if self._unread:
            self._unread = False
            self._handover.unread -= 1

    def closed(self, status: Status) -> None:
        del status
        self._forget()
