"""The life of a connection's streams: which are open, reset or gone, and how all of them end. Pure.

Frames are read in `connection.py`, and who may open streams is in `server.py` and `client.py`.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from mypy_extensions import i64

from epp_client.wire.http2.frames import ErrorCode, StreamFault, goaway, rst_stream
from epp_client.wire.http2.inbox import Inbox
from epp_client.wire.http2.outbox import Backlog, Shell
from epp_client.wire.http2.stream import Http2Stream
from epp_client.wire.status import INTERNAL, UNAVAILABLE, Status

_REMEMBERED: Final = 4096
"""Ids of closed and of reset streams that are remembered."""

S = TypeVar("S", bound=Http2Stream)


class StreamTable(Inbox, Generic[S]):
    """The streams of one connection. `report` is called with exceptions that owners of streams raise."""

    def __init__(
        self,
        clock: Callable[[], float],
        shell: Shell,
        report: Callable[[Exception], None],
    ) -> None:
        super().__init__(clock, shell)
        self.streams: dict[int, S] = {}
        # The open stream that got the last frame: usually the next one is for it too.
        self._recent: S | None = None
        self.draining = False
        self.on_room: Callable[[], None] | None = None
        """Called whenever a slot for a stream becomes free."""
        self._report = report
        self._partial = b""
        self._block = b""
        self._last_id = 0
        self._gone: deque[int] = deque(maxlen=_REMEMBERED)
        self._reset: dict[int, None] = {}

    def _last_taken(self) -> int:
        """The last stream of the peer that was processed, for GOAWAY."""
        return self._last_id

    def _is_idle(self, stream_id: int) -> bool:
        """Whether this stream has not been opened yet."""
        return stream_id > self._last_id or not stream_id & 1

    def open_stream(self, stream_id: i64) -> S | None:
        """The open stream with this id."""
        stream = self._recent
        if stream is None or stream.id != stream_id:
            self._recent = stream = self.streams.get(stream_id)
        return stream

    def forget(self, stream: Backlog, was_reset: bool = False) -> None:
        """See `Inbox.forget`."""
        known = self.open_stream(stream.id)
        if known is None:
            return
        del self.streams[stream.id]
        self._recent = None
        if self.blocked:
            self.blocked.pop(stream, None)
        if known.reader is not None:
            known.drop_partial()
        if was_reset:
            self._remember_reset(stream.id)
        else:
            self._gone.append(stream.id)
        if self.draining and not self.streams:
            self._drained()
        elif self.on_room is not None:
            self.on_room()

    def _remember_reset(self, stream_id: int) -> None:
        self._reset[stream_id] = None
        if len(self._reset) > _REMEMBERED:
            del self._reset[next(iter(self._reset))]

    def _drained(self) -> None:
        """Close: the last stream of a draining connection has ended."""
        self.closed = True
        if not self.awake:
            self.wake()

    def _stream_fault(self, fault: StreamFault) -> None:
        self.calm.spend("faulty streams")
        self.write(rst_stream(fault.stream_id, fault.code))
        self._remember_reset(fault.stream_id)
        stream = self.streams.get(fault.stream_id)
        if stream is not None:
            try:
                self._close_faulty(stream, fault)
            except Exception as error:
                self._report(error)

    def _close_faulty(self, stream: S, fault: StreamFault) -> None:
        """End a stream whose peer broke a rule."""
        raise NotImplementedError

    def _owner_failed(self, stream_id: int, error: Exception) -> None:
        """End the stream of an owner that raised, and call its `closed`."""
        self._report(error)
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        owner = stream.events
        stream.reset(ErrorCode.INTERNAL_ERROR)
        try:
            owner.closed(Status(INTERNAL, "the owner of the stream failed"))
        except Exception as again:
            self._report(again)

    # --- the end ---

    def fail(self, code: ErrorCode, text: str) -> None:
        """Send GOAWAY, and end the connection and every stream."""
        if not self.closed:
            self.write(goaway(self._last_taken(), code, text))
            self.lost(f"{code.name}: {text}")

    def lost(self, text: str) -> None:
        """The connection broke: end every stream."""
        self.closed = True
        for stream in list(self.streams.values()):
            self._close_lost(stream, text)

    def release(self) -> None:
        """Drop all references after the socket was closed, so that memory is freed at once instead of by
        the cycle collector. After the restart of a picker this is megabytes."""
        self.abandon()
        self._recent = None
        self.on_room = None
        self._report = _unheard
        self._partial = self._block = b""

    def _close_lost(self, stream: S, text: str) -> None:
        try:
            stream.close(Status(UNAVAILABLE, text))
        except Exception as error:
            self._report(error)


def _unheard(error: Exception) -> None:
    """Do nothing."""
