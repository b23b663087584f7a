"""One gRPC stream on an HTTP/2 connection: its state, its windows, and the messages that wait in each
direction.

The part common to both ends; `server_stream.py` and `client_stream.py` add the order of headers and
trailers. Pure: output goes through the connection.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

from epp_client.wire.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD_SIZE,
    HEADERS,
    PADDED,
    ErrorCode,
    StreamFault,
    rst_stream,
    window_update,
    word,
    write_head,
)
from epp_client.wire.http2.grpc import GrpcFault, MessageReader, status_of_reset
from epp_client.wire.http2.headers import (
    RESPONSE,
)
from epp_client.wire.http2.inbox import STREAM_WINDOW, Inbox
from epp_client.wire.http2.outbox import PREFIX_SIZE, Backlog
from epp_client.wire.status import INTERNAL, RESOURCE_EXHAUSTED, Status
from epp_client.wire.transport import NO_OWNER, StreamEvents

_HELD_OVERHEAD: Final = 64
"""Bytes of overhead of a held message."""
MAX_ASSEMBLED: Final = 256 * 1024 * 1024
"""Bytes of unfinished messages on one connection; the stream that exceeds it fails. Windows do not limit
them, as a message may be larger than a window."""
MAX_ASSEMBLED_BY_ALL: Final = 512 * 1024 * 1024
"""The same on all connections of a process, whose number depends on its peers."""
_SMALL: Final = 256
"""Bytes of a DATA frame below which it does not count as useful work: a peer's small windows cause such
frames."""
_REPLENISH: Final = STREAM_WINDOW // 2
HIGH_WATER: Final = 64 * 1024
"""Bytes of backlog above which the owner is told to pause."""
LOW_WATER: Final = 32 * 1024

_HEADERS_WORD: Final = len(RESPONSE) << 8 | HEADERS


def _message_end(data: bytes, start: i64, stop: i64) -> i64:
    """Where the uncompressed message at `start` ends; 0 if it is not whole before `stop`."""
    # The highest byte says whether it is compressed.
    if start + PREFIX_SIZE > stop or word(data, start) >= 1 << 24:
        return 0
    end = start + PREFIX_SIZE + word(data, start + 1)
    return end if end <= stop else 0


class Http2Stream(Backlog):
    """The part of a stream common to both ends. If `over`, it has no owner any more."""

    __slots__ = (
        "_announced",
        "_end",
        "_expected",
        "_finished",
        "_followed",
        "_held",
        "_offset",
        "_queue",
        "_reading",
        "_unacked",
        "_verdict",
        "connection",
        "events",
        "local_ended",
        "on_end",
        "over",
        "paused",
        "reader",
        "remote_ended",
        "send_window",
    )

    def __init__(self, connection: Inbox, stream_id: int, events: StreamEvents) -> None:
        self.connection = connection
        self.id = stream_id
        self.events = events
        self.over = False
        self.local_ended = False
        self.remote_ended = False
        self.send_window: i64 = connection.initial_window
        self.queued = 0
        self.on_end: Callable[[], None] | None = None
        """Called once when the stream ends, for any reason."""
        self._queue: deque[bytes] | None = None
        self._offset = 0
        self._end: bytes | None = None
        self._announced = False
        self._finished = False
        self._followed = False
        self.paused = False
        self._unacked: i64 = 0
        self._expected: i64 = -1
        self._reading = True
        self.reader: MessageReader | None = None
        self._held: deque[bytes] | None = None
        self._verdict: Status | None = None

    @property
    def done(self) -> bool:
        """Whether the owner has finished the stream, or it is over."""
        return self._finished or self.over

    # --- called by the owner ---

    def send(self, message: bytes) -> None:
        """See `Stream.send`."""
        if self._finished or self.over:
            return
        connection = self.connection
        if not connection.tableless:
            self._announce(RESPONSE)
        size: i64 = len(message) + PREFIX_SIZE
        if (
            connection.flowing
            and not self.queued
            and size <= self.send_window
            and size <= connection.send_window
            and size <= connection.max_frame
        ):
            self.send_window -= size
            connection.send_window -= size
            # The peer may answer with two WINDOW_UPDATEs.
            connection.calm.left += 2
            if not self._announced:
                self._announced = True
                out = connection.out
                write_head(out, _HEADERS_WORD, END_HEADERS, self.id)
                out.write(RESPONSE)
            connection.write_message(self.id, message)
            return
        if not self._announced:
            self._announce(RESPONSE)
        self._enqueue(b"\0" + len(message).to_bytes(4))
        self._enqueue(message)
        connection.blocked[self] = None
        connection.pump_stream(self)
        if self.queued > HIGH_WATER and not self.paused:
            self.paused = True
            self.events.pause_writing()

    def cancel(self) -> None:
        """See `Stream.cancel`."""
        if not self.over:
            self.reset(ErrorCode.CANCEL)

    def pause_reading(self) -> None:
        """See `Stream.pause_reading`."""
        self._reading = False

    def resume_reading(self) -> None:
        """See `Stream.resume_reading`."""
        if self._reading:
            return
        self._reading = True
        held = self._held
        if held is not None:
            while held and self._reading:
                message = held.popleft()
                self.connection.held -= len(message) + _HELD_OVERHEAD
                self.events.message_received(message)
            self.connection.replenish()
            if held or not self._reading or self._held is not held:
                return
            self._held = None
            if self.remote_ended:
                self._remote_done()
        if self._unacked >= _REPLENISH and not self.remote_ended and not self.over:
            self._replenish()

    # --- called by the connection ---

    def data(self, data: bytes, start: i64, stop: i64, counted: i64, ended: bool) -> None:
        """Process the payload `data[start:stop]` of a DATA frame, which counts as `counted` bytes of the
        window."""
        if self.remote_ended:
            raise StreamFault(self.id, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
        self._unacked += counted
        if self._unacked > STREAM_WINDOW:
            raise StreamFault(self.id, ErrorCode.FLOW_CONTROL_ERROR, "DATA above the window")
        if self._expected >= 0:
            self._expected -= stop - start
            if self._expected < 0 or (ended and self._expected):
                raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR, "wrong content-length")
        self.remote_ended = ended
        if stop > start:
            self._payload(data, start, stop)
        elif not ended:
            self.connection.calm.spend("empty DATA frames")
        if self.over:
            return
        if ended:
            if self.reader is not None and not self.reader.idle:
                self.fail(Status(INTERNAL, "the stream ended within a message"))
            elif self._held is None:
                self._remote_done()
        elif self._unacked >= _REPLENISH and self._reading:
            self._replenish()

    def _payload(self, data: bytes, start: i64, stop: i64) -> None:
        reader = self.reader
        if reader is None or reader.idle:
            # Whole messages, mostly one.
            end = _message_end(data, start, stop)
            while end > 0:
                after = _message_end(data, end, stop)
                self._followed = after > 0 or (end == stop and self._followed_by(data, stop))
                self._message(data[start + PREFIX_SIZE : end])
                self._followed = False
                if after > 0:
                    # The first one was counted with its frame.
                    self.connection.work -= 1
                start, end = end, after
            if start == stop:
                return
        if self.events is NO_OWNER:
            return
        if reader is None:
            reader = self.reader = MessageReader()
        connection, before = self.connection, reader.size
        try:
            messages = reader.feed(data, start, stop)
        except GrpcFault as fault:
            connection.count_assembled(reader.size - before)
            self.fail(fault.status)
            return
        connection.count_assembled(reader.size - before)
        if (
            connection.assembled > MAX_ASSEMBLED
            or connection.tally.assembled > MAX_ASSEMBLED_BY_ALL
        ):
            self.fail(Status(RESOURCE_EXHAUSTED, "too many unfinished messages"))
            return
        connection.work -= len(messages)
        for message in messages:
            self._message(message)

    def _followed_by(self, data: bytes, at: i64) -> bool:
        """Whether `data` has a whole frame of this stream at `at`, and in it a whole message."""
        size: i64 = len(data)
        if at + HEAD_SIZE > size or word(data, at + 5) != self.id:
            return False
        size_and_kind = word(data, at)
        start = at + HEAD_SIZE
        stop = start + (size_and_kind >> 8)
        return (
            size_and_kind & 0xFF == DATA
            and stop <= size
            and not word(data, at + 1) & PADDED
            and _message_end(data, start, stop) > 0
        )

    def followed(self) -> bool:
        """See `Stream.followed`."""
        return self._followed

    def _message(self, message: bytes) -> None:
        self.connection.calm.left += 1
        if self._held is None and self._reading:
            if not self.over:
                self.events.message_received(message)
        elif not self.over:
            if self._held is None:
                self._held = deque()
            self._held.append(message)
            self.connection.held += len(message) + _HELD_OVERHEAD

    def _drop_held(self) -> None:
        held = self._held
        if held is not None:
            self._held = None
            self.connection.held -= sum(map(len, held)) + _HELD_OVERHEAD * len(held)
            held.clear()
            self.connection.replenish()

    def drop_partial(self) -> None:
        """Drop an unfinished message."""
        reader = self.reader
        if reader is not None:
            self.reader = None
            self.connection.count_assembled(-reader.size)

    def _remote_done(self) -> None:
        """The peer has half-closed, and the owner has all its messages."""
        raise NotImplementedError

    def fail(self, status: Status) -> None:
        """End the stream because the peer broke a rule of gRPC."""
        raise NotImplementedError

    def reset_received(self, code: int) -> None:
        """A RST_STREAM was received."""
        self.close(status_of_reset(code))

    def reset(self, code: ErrorCode) -> None:
        """Send RST_STREAM and remove the stream, without calling the owner."""
        self.connection.write(rst_stream(self.id, code))
        self.connection.forget(self, was_reset=True)
        self._over()

    def close(self, status: Status) -> None:
        """Remove the stream, and call the owner's `closed`."""
        self.connection.forget(self)
        if not self.over:
            events = self.events
            self._over()
            events.closed(status)

    def _over(self) -> None:
        self.over = True
        self._queue = None
        self.queued = 0
        self._drop_held()
        self.events = NO_OWNER
        if self.on_end is not None:
            self.on_end()
            self.on_end = None

    # --- backlog ---

    def _announce(self, block: bytes) -> None:
        self._announced = True
        self.connection.write_headers(self.id, block, 0)

    def _enqueue(self, piece: bytes) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(piece)
        self.queued += len(piece)

    def _finish(self, end: bytes) -> None:
        """Half-close with trailers, or with END_STREAM on DATA if `end` is empty."""
        self._finished = True
        self._end = end
        if self.queued:
            return
        self._write_end()

    def _write_end(self) -> None:
        end = self._end
        assert end is not None
        if end:
            self.connection.write_headers(self.id, end, END_STREAM)
        else:
            self.connection.write_end(self.id)
        self._local_done()

    def _local_done(self) -> None:
        self.local_ended = True
        if self.remote_ended:
            self.connection.forget(self)

    def pump(self, room: int) -> bool:
        """See `Backlog.pump`."""
        size = min(room, self.queued, self.send_window)
        queue = self._queue
        if size <= 0 or queue is None:
            return False
        connection = self.connection
        last = size == self.queued and self._end == b""
        out = connection.out
        write_head(out, size << 8 | DATA, END_STREAM if last else 0, self.id)
        left = size
        while left:
            piece = queue[0]
            taken = min(len(piece) - self._offset, left)
            if taken == len(piece):
                out.write(piece)
            else:
                out.write(piece[self._offset : self._offset + taken])
            left -= taken
            self._offset += taken
            if self._offset == len(piece):
                queue.popleft()
                self._offset = 0
        self.queued -= size
        self.send_window -= size
        connection.send_window -= size
        if size >= _SMALL:
            connection.calm.left += 2
        if not self.queued:
            self._queue = None
            if last:
                self._local_done()
            elif self._end is not None:
                self._write_end()
        return self.queued > 0 and self.send_window > 0

    def relieve(self) -> None:
        """See `Backlog.relieve`."""
        if self.paused and self.queued <= LOW_WATER:
            self.paused = False
            self.events.resume_writing()

    def _replenish(self) -> None:
        self.connection.write(window_update(self.id, self._unacked))
        self._unacked = 0
