"""What one end of a connection has to send: whole frames, and the backlogs of streams that flow control
holds back. Pure; the connection adds what is received.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from epp_client.wire.http2.frames import (
    CONTINUATION,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    HEADERS,
    frame,
)
from epp_client.wire.http2.headers import NO_TABLE
from epp_client.wire.transport import Stream

PUMP: Final = 256 * 1024
"""Bytes of backlog written at once, before the socket is asked whether it can take more."""


def _asleep() -> None:
    """There is nobody left to wake."""


class Backlog(Stream):
    """The sending half of a stream, as an `Outbox` sees it."""

    __slots__ = ("id", "queued")

    id: int
    queued: int
    """Bytes that wait to be sent."""

    def pump(self, room: int) -> bool:
        """Write one DATA frame of at most `room` bytes of the backlog. True if another frame could follow:
        bytes are left, and the stream's own window is open."""
        raise NotImplementedError

    def relieve(self) -> None:
        """Call the owner's `resume_writing` if the backlog has become small enough."""
        raise NotImplementedError


class Outbox:
    """The sending half. `wake` is called when output appears while nobody is about to take it."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.blocked: OrderedDict[Backlog, None] = OrderedDict()
        """Streams with a backlog that their own windows let go, in the order in which they are
        served. A stream without a window is not among them: it would be asked in vain, each time."""
        self.out: list[bytes | memoryview] = []
        self.awake = False
        """Whether someone is about to take the output."""
        self.flowing = True
        """Whether the socket takes more; DATA waits in its streams while it does not."""
        self.max_frame = DEFAULT_FRAME
        self.initial_window = DEFAULT_WINDOW
        self.send_window = DEFAULT_WINDOW
        self.tableless = False
        """The peer has been told that our blocks use no dynamic table."""
        self._wake = wake

    def take(self) -> bytes:
        """The bytes to write to the socket, in order."""
        self.awake = False
        out = self.out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        return data

    def wake(self) -> None:
        """Have the output taken in this turn of the event loop."""
        self.awake = True
        self._wake()

    def abandon(self) -> None:
        """Nobody takes output any more."""
        self.out.clear()
        self.blocked.clear()
        self._wake = _asleep

    def write(self, data: bytes) -> None:
        """Queue whole frames."""
        self.out.append(data)
        if not self.awake:
            self.wake()

    def write_headers(self, stream_id: int, block: bytes, flags: int) -> None:
        """Queue a header block, in as many frames as the peer's limit asks for."""
        if not self.tableless:
            self.tableless = True
            block = NO_TABLE + block
        limit = self.max_frame
        if len(block) <= limit:
            self.write(frame(HEADERS, flags | END_HEADERS, stream_id, block))
            return
        self.write(frame(HEADERS, flags, stream_id, block[:limit]))
        for offset in range(limit, len(block), limit):
            last = END_HEADERS if offset + limit >= len(block) else 0
            self.write(frame(CONTINUATION, last, stream_id, block[offset : offset + limit]))

    def pump_stream(self, stream: Backlog) -> None:
        """Write what the windows and the socket allow of one stream's backlog."""
        room = PUMP
        while room > 0 and self.flowing and self.send_window > 0:
            before = stream.queued
            if not stream.pump(min(self.max_frame, self.send_window)):
                self.blocked.pop(stream, None)
                break
            if stream.queued == before:
                break
            room -= before - stream.queued
        if self.out and not self.awake:
            self.wake()

    def pump(self) -> None:
        """Write what the windows and the socket allow of all backlogs, one frame each in turn."""
        room = PUMP
        blocked = self.blocked
        while blocked and room > 0 and self.flowing and self.send_window > 0:
            stream, _ = blocked.popitem(last=False)
            before = stream.queued
            if stream.pump(min(self.max_frame, self.send_window)):
                # behind those that have not had their turn
                blocked[stream] = None
            if stream.queued != before:
                room -= before - stream.queued
                self._relieve(stream)
        if self.out and not self.awake:
            self.wake()

    def _relieve(self, stream: Backlog) -> None:
        try:
            stream.relieve()
        except Exception as error:
            self._owner_failed(stream.id, error)

    def _owner_failed(self, stream_id: int, error: Exception) -> None:
        """An owner raised: its stream ends, the others go on."""
        raise NotImplementedError
