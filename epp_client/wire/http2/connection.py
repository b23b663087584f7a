"""One HTTP/2 connection as a state machine: reads frames, and calls the owners of streams. Pure.

The part common to both ends; `server.py` and `client.py` add the opening of streams. The shell
(`wire/protocol.py`) calls `receive` with input and `take` for output, and is woken when there is output.
Rules are those of RFC 9113 unless noted.
"""

from collections.abc import Callable
from typing import Generic

from mypy_extensions import i64

from epp_client.wire.http2 import frames
from epp_client.wire.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    LARGEST_ID,
    LARGEST_WINDOW,
    PADDED,
    PING,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    frame,
    unpad,
    word,
)
from epp_client.wire.http2.headers import MAX_HEADER_LIST, HeaderReader
from epp_client.wire.http2.inbox import CONNECTION_WINDOW, REPLENISH
from epp_client.wire.http2.outbox import LARGEST_SENT, Shell
from epp_client.wire.http2.streams import S, StreamTable


class Http2Connection(StreamTable[S], Generic[S]):
    """The part of a connection common to both ends. `report` is called with exceptions of owners."""

    def __init__(
        self,
        clock: Callable[[], float],
        shell: Shell,
        report: Callable[[Exception], None],
    ) -> None:
        super().__init__(clock, shell, report)
        self.settled = False
        """Whether the peer's SETTINGS were received."""
        self.more = False
        """Whether received frames wait for the next call of `receive`."""
        self.pongs = 0
        self._headers = HeaderReader()
        self._continuing = 0
        self._block_ended = False

    # --- bytes ---

    def receive(self, data: bytes, work: int = LARGEST_ID) -> None:
        """Process input from the socket. Never raises: if the peer breaks a rule, GOAWAY is sent and the
        connection is `closed`.
        After `work` frames and messages the rest waits for the next call, and `more` is set.
        """
        self.more = False
        if self.closed:
            return
        self.work = work
        if len(self._partial):
            data = self._partial + data
            self._partial = b""
        position: i64 = 0
        end: i64 = len(data)
        # The shell takes the output when this returns.
        self.awake = True
        try:
            position = self._skip_preface(data)
            while position >= 0 and not self.closed and end - position >= 9:
                if self.work <= 0:
                    self.more = True
                    break
                self.work -= 1
                size_and_kind = word(data, position)
                stream_id = word(data, position + 5) & LARGEST_ID
                start = position + 9
                stop = start + (size_and_kind >> 8)
                if stop - start > DEFAULT_FRAME:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame above 16 KiB")
                if stop > end:
                    break
                flags = data[position + 4]
                position = stop
                try:
                    self._frame(data, size_and_kind & 0xFF, flags, stream_id, start, stop)
                except StreamFault as fault:
                    self._stream_fault(fault)
                except ConnectionFault:
                    raise
                except Exception as error:
                    self._owner_failed(stream_id, error)
        except ConnectionFault as broken:
            # Not `error`: in mypyc a name has one type per function.
            self.fail(broken.code, str(broken))
            return
        if 0 <= position < end and not self.closed:
            self._partial = data[position:]

    def _skip_preface(self, data: bytes) -> int:
        """Where frames begin in `data`; -1 while the preface is incomplete."""
        return 0

    # --- frames ---

    def _frame(
        self, data: bytes, kind: i64, flags: i64, stream_id: i64, start: i64, stop: i64
    ) -> None:
        if self._continuing and (kind != CONTINUATION or stream_id != self._continuing):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame within a header block")
        if kind == DATA:
            counted = stop - start
            self.unacked += counted
            if self.unacked >= REPLENISH:
                if self.unacked > CONNECTION_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "DATA above the window")
                self.replenish()
            stream = self.open_stream(stream_id)
            if stream is None:
                if not counted:
                    self.calm.spend("empty DATA frames")
                self._data_for_nobody(stream_id)
                return
            if flags & PADDED:
                data = unpad(kind, flags, data[start:stop])
                start, stop = 0, len(data)
            stream.data(data, start, stop, counted, flags & END_STREAM > 0)
        elif kind == HEADERS:
            self._header_frame(stream_id, flags, data[start:stop])
        elif not self.settled and kind != SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        elif kind == WINDOW_UPDATE:
            self._window_update(stream_id, data[start:stop])
        elif kind == RST_STREAM:
            self._rst_stream(stream_id, data[start:stop])
        elif kind == CONTINUATION:
            self._continuation(data[start:stop], flags)
        elif kind == SETTINGS:
            self._settings(stream_id, flags, data[start:stop])
        elif kind == PING:
            self._ping(stream_id, flags, data[start:stop])
        elif kind == GOAWAY:
            self._goaway_frame(stream_id, data[start:stop])
        elif kind == PRIORITY:
            self._priority(stream_id, data[start:stop])
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is disabled")
        else:
            self.calm.spend("unknown frames")

    def _header_frame(self, stream_id: int, flags: int, block: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (PADDED | PRIORITIZED):
            block = unpad(HEADERS, flags, block)
            if flags & PRIORITIZED:
                self._check_priority(stream_id, block, len(block) >= 5)
                block = block[5:]
        if flags & END_HEADERS:
            self._block_received(stream_id, block, flags & END_STREAM > 0)
        else:
            self._continuing = stream_id
            self._block = block
            self._block_ended = flags & END_STREAM > 0

    def _goaway_frame(self, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) < 8:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream, or too short")
        self._goaway(word(payload) & LARGEST_ID, word(payload, 4), payload[8:])

    def _priority(self, stream_id: int, payload: bytes) -> None:
        self.calm.spend("PRIORITY frames")
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise StreamFault(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes")
        self._check_priority(stream_id, payload, True)

    def _check_priority(self, stream_id: int, payload: bytes, whole: bool) -> None:
        if not whole:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS end within a priority")
        if word(payload) & LARGEST_ID == stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")

    def _data_for_nobody(self, stream_id: int) -> None:
        if self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on an idle stream")
        if stream_id not in self._reset:
            self.calm.spend("DATA on closed streams")
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA on a closed stream")

    def _continuation(self, payload: bytes, flags: int) -> None:
        stream_id = self._continuing
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self.calm.spend("CONTINUATION frames")
        self._block += payload
        if len(self._block) > MAX_HEADER_LIST:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block above 64 KiB")
        if flags & END_HEADERS:
            self._continuing = 0
            block, self._block = self._block, b""
            self._block_received(stream_id, block, self._block_ended)

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        self.calm.spend("WINDOW_UPDATE frames")
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        increment = word(payload) & LARGEST_ID
        if not stream_id:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0 bytes")
            self.send_window += increment
            if self.send_window > LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the window overflowed")
            self.pump()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            return
        if not increment:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0 bytes")
        stream.send_window += increment
        if stream.send_window > LARGEST_WINDOW:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the window overflowed")
        if stream.queued and stream.send_window > 0:
            self.blocked[stream] = None
            self.pump_stream(stream)
            self._relieve(stream)

    def _rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        self.calm.spend("resets")
        stream = self.open_stream(stream_id)
        if stream is not None:
            stream.reset_received(word(payload))
        elif self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")

    def _settings(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        self.calm.spend("SETTINGS frames")
        if flags & ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            self._headers.table_forbidden()
            return
        for name, value in frames.read_settings(payload).items():
            if name == frames.INITIAL_WINDOW_SIZE:
                self._resize_windows(value - self.initial_window)
                self.initial_window = value
            elif name == frames.MAX_FRAME_SIZE:
                self.max_frame = min(value, LARGEST_SENT)
            else:
                self._setting(name, value)
        self.settled = True
        self.write(frame(SETTINGS, ACK, 0))
        self.pump()

    def _resize_windows(self, change: int) -> None:
        if not change:
            return
        for stream in self.streams.values():
            stream.send_window += change
            if stream.send_window > LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window overflowed")
            if stream.queued and stream.send_window > 0:
                self.blocked[stream] = None

    def _setting(self, name: int, value: int) -> None:
        """A setting for one of the ends."""

    def _ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        self.calm.spend("PING frames")
        if not flags & ACK:
            self.write(frame(PING, ACK, 0, payload))
            return
        self.pongs += 1
        self._pong(payload)

    def _pong(self, payload: bytes) -> None:
        """The peer has answered our PING."""

    def _goaway(self, last_id: int, code: int, debug: bytes) -> None:
        """The peer accepts no more streams."""
        raise NotImplementedError

    def _block_received(self, stream_id: int, block: bytes, ended: bool) -> None:
        """A complete header block was received."""
        raise NotImplementedError
