"""The client's end of a connection, which opens streams. Pure."""

from collections.abc import Callable, Mapping

from epp_client.wire.http2 import frames
from epp_client.wire.http2.client_stream import ClientStream
from epp_client.wire.http2.connection import Http2Connection
from epp_client.wire.http2.frames import (
    LARGEST_ID,
    PING,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    frame,
)
from epp_client.wire.http2.headers import Malformed, literals, request_start
from epp_client.wire.http2.inbox import own_settings
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.status import INTERNAL, UNAVAILABLE, Status
from epp_client.wire.transport import StreamEvents


class ClientConnection(Http2Connection[ClientStream]):
    """The client's end of a connection."""

    def __init__(
        self,
        scheme: str,
        authority: str,
        clock: Callable[[], float],
        shell: Shell,
        report: Callable[[Exception], None],
    ) -> None:
        super().__init__(clock, shell, report)
        self._scheme = scheme
        self._authority = authority
        self._next_id = 1
        # The start of the last call's block.
        self._path = ""
        self._start = b""
        self._max_streams = LARGEST_ID
        self.out.write(PREFACE + own_settings({frames.ENABLE_PUSH: 0}))

    @property
    def alive(self) -> bool:
        """Whether it is settled and not going away, so that streams can be opened, now or once others have
        ended."""
        return (
            self.settled and not self.closed and not self.draining and self._next_id <= LARGEST_ID
        )

    @property
    def usable(self) -> bool:
        """Whether `open` may be called: alive, and a stream slot is free."""
        return len(self.streams) < self._max_streams and self.alive

    def open(self, path: str, metadata: Mapping[str, str], events: StreamEvents) -> ClientStream:
        """Start a stream. Only call it if `usable`."""
        stream = ClientStream(self, self._next_id, events)
        self._next_id += 2
        self._last_id = stream.id
        self.streams[stream.id] = stream
        if path != self._path:
            self._path, self._start = path, request_start(self._scheme, self._authority, path)
        block = self._start
        if metadata:
            block += literals(metadata.items())
        self.write_headers(stream.id, block, 0)
        return stream

    def ping(self) -> None:
        """Send a PING; `pongs` counts the answers."""
        self.write(frame(PING, 0, 0, b"epp-ping"))

    def drain(self) -> None:
        """Open no more streams. It is `closed` once the open ones have ended."""
        self.draining = True
        if not self.streams:
            self._drained()

    def _setting(self, name: int, value: int) -> None:
        if name == frames.MAX_CONCURRENT_STREAMS:
            self._max_streams = value
            if self.on_room is not None:
                self.on_room()

    def _block_received(self, stream_id: int, block: bytes, ended: bool) -> None:
        if self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on an idle stream")
        try:
            head = self._headers.response(block)
        except Malformed as error:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from error
        stream = self.open_stream(stream_id)
        if stream is None:
            self.calm.spend("HEADERS on closed streams")
        else:
            stream.headers_received(head, ended)

    def _last_taken(self) -> int:
        # Servers do not open streams.
        return 0

    def _data_for_nobody(self, stream_id: int) -> None:
        # DATA of a cancelled call may still be on its way.
        if self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on an idle stream")

    def _close_faulty(self, stream: ClientStream, fault: StreamFault) -> None:
        stream.close(Status(INTERNAL, f"the peer broke HTTP/2: {fault}"))

    def _goaway(self, last_id: int, code: int, debug: bytes) -> None:
        self.draining = True
        text = debug.decode("latin-1")[:200] or f"code {code}"
        for stream_id, stream in list(self.streams.items()):
            if stream_id > last_id:
                stream.close(Status(UNAVAILABLE, f"the peer is going away ({text})"))
        if not self.streams:
            self._drained()
        elif self.on_room is not None:
            # Calls that wait for a slot here need another connection.
            self.on_room()
