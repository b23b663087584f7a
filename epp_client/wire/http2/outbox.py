"""The sending half of a connection: complete frames, and the backlogs of streams that flow control delays.
Pure.
"""

from collections import OrderedDict
from typing import Final

from librt.strings import BytesWriter, write_i32_be
from mypy_extensions import i32, i64, u8

from epp_client.wire.http2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD_SIZE,
    HEADERS,
    frame,
    write_head,
)
from epp_client.wire.http2.headers import NO_TABLE
from epp_client.wire.transport import Stream

PREFIX_SIZE: Final = 5
"""Bytes before each message: whether it is compressed, and its length."""
PUMP: Final = 256 * 1024
"""Bytes of backlog written before checking whether the socket accepts more."""
LARGEST_SENT: Final = 1024 * 1024
"""Largest frame that is sent, whatever the peer accepts."""
_KEPT: Final = 64 * 1024
"""Bytes of a buffer that is used again."""


class Shell:
    """What writes the output of a connection to its socket. This one writes nothing. A class and no
    callable: compiled, a call of its method costs a quarter."""

    def wake(self) -> None:
        """There is output: take it in this turn of the event loop."""


_NO_SOCKET: Final = Shell()


class Backlog(Stream):
    """The sending half of a stream, as an `Outbox` sees it."""

    __slots__ = ("id", "queued")

    id: i64
    queued: i64
    """Bytes that wait to be sent."""

    def pump(self, room: int) -> bool:
        """Write one DATA frame of at most `room` bytes of the backlog. True if another frame could follow:
        bytes are left, and the stream's own window is open."""
        raise NotImplementedError

    def relieve(self) -> None:
        """Call the owner's `resume_writing` if the backlog has become small enough."""
        raise NotImplementedError


class Outbox:
    """The sending half of a connection. `shell` is woken when there is new output to take."""

    def __init__(self, shell: Shell) -> None:
        self.blocked: OrderedDict[Backlog, None] = OrderedDict()
        """Streams that have a backlog and an open window, in the order in which they are served."""
        self.out = BytesWriter()
        # The last DATA frame, to which its stream may add messages while nothing comes after it: its
        # stream, its size, and where it ends in `out`.
        self._frame_of: i64 = 0
        self._frame_size: i64 = 0
        self._frame_end: i64 = -1
        self.awake = False
        """Whether the output will be taken anyway."""
        self.flowing = True
        """Whether the socket accepts more. If not, DATA waits in the streams."""
        self.max_frame: i64 = DEFAULT_FRAME
        self.initial_window: i64 = DEFAULT_WINDOW
        self.send_window: i64 = DEFAULT_WINDOW
        self.tableless = False
        """Whether the peer was told that our blocks use no dynamic table."""
        self._shell = shell

    def take(self) -> bytes:
        """The bytes to write to the socket, in order."""
        self.awake = False
        self._frame_end = -1
        out = self.out
        if not len(out):
            return b""
        data = out.getvalue()
        if len(data) > _KEPT:
            self.out = BytesWriter()
        else:
            out.truncate(0)
        return data

    def wake(self) -> None:
        """Make the shell take the output in this turn of the event loop."""
        self.awake = True
        self._shell.wake()

    def abandon(self) -> None:
        """Drop the output: the socket is closed."""
        self.out = BytesWriter()
        self._frame_end = -1
        self.blocked.clear()
        self._shell = _NO_SOCKET

    def write(self, data: bytes) -> None:
        """Queue complete frames."""
        self.out.write(data)
        if not self.awake:
            self.wake()

    def write_message(self, stream_id: i64, message: bytes) -> None:
        """Queue a gRPC message, which the windows allow, as a DATA frame, or as a part of the last one: the
        peer reads fewer frames."""
        out = self.out
        size: i64 = len(message) + PREFIX_SIZE
        whole = self._frame_size + size
        if self._frame_end == len(out) and self._frame_of == stream_id and whole <= DEFAULT_FRAME:
            head = self._frame_end - self._frame_size - HEAD_SIZE
            # The first byte of the size of such a frame is zero.
            out[head + 1] = u8(whole >> 8)
            out[head + 2] = u8(whole & 0xFF)
        else:
            whole = size
            write_head(out, size << 8 | DATA, 0, stream_id)
        out.append(0)
        write_i32_be(out, i32(size - PREFIX_SIZE))
        out.write(message)
        self._frame_of, self._frame_size, self._frame_end = stream_id, whole, len(out)
        if not self.awake:
            self.wake()

    def write_end(self, stream_id: int) -> None:
        """Queue an empty DATA frame that ends the stream."""
        write_head(self.out, DATA, END_STREAM, stream_id)
        if not self.awake:
            self.wake()

    def write_headers(self, stream_id: int, block: bytes, flags: int) -> None:
        """Queue a header block, split into frames of the peer's limit."""
        if not self.tableless:
            self.tableless = True
            block = NO_TABLE + block
        limit = self.max_frame
        if len(block) <= limit:
            write_head(self.out, len(block) << 8 | HEADERS, flags | END_HEADERS, stream_id)
            self.write(block)
            return
        self.write(frame(HEADERS, flags, stream_id, block[:limit]))
        for offset in range(limit, len(block), limit):
            last = END_HEADERS if offset + limit >= len(block) else 0
            self.write(frame(CONTINUATION, last, stream_id, block[offset : offset + limit]))

    def pump_stream(self, stream: Backlog) -> None:
        """Write as much of one stream's backlog as the windows and the socket allow."""
        room = PUMP
        while room > 0 and self.flowing and self.send_window > 0:
            before = stream.queued
            if not stream.pump(min(self.max_frame, self.send_window)):
                self.blocked.pop(stream, None)
                break
            if stream.queued == before:
                break
            room -= before - stream.queued
        if len(self.out) and not self.awake:
            self.wake()

    def pump(self) -> None:
        """Write as much of all backlogs as the windows and the socket allow, one frame per stream in
        turn."""
        room = PUMP
        blocked = self.blocked
        while blocked and room > 0 and self.flowing and self.send_window > 0:
            stream, _ = blocked.popitem(last=False)
            before = stream.queued
            if stream.pump(min(self.max_frame, self.send_window)):
                # It is served again after the streams that wait for their turn.
                blocked[stream] = None
            if stream.queued != before:
                room -= before - stream.queued
                self._relieve(stream)
        if len(self.out) and not self.awake:
            self.wake()

    def _relieve(self, stream: Backlog) -> None:
        try:
            stream.relieve()
        except Exception as error:
            self._owner_failed(stream.id, error)

    def _owner_failed(self, stream_id: int, error: Exception) -> None:
        """End the stream of an owner that raised."""
        raise NotImplementedError
