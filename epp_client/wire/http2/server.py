"""The server's end of a connection, which accepts streams. Pure."""

from collections.abc import Callable
from typing import Final

from epp_client.wire.http2 import frames
from epp_client.wire.http2.connection import Http2Connection
from epp_client.wire.http2.frames import (
    LARGEST_ID,
    PING,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    frame,
    goaway,
)
from epp_client.wire.http2.headers import Malformed
from epp_client.wire.http2.inbox import own_settings
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server_stream import NotGrpcStream, ServerStream
from epp_client.wire.transport import Accept

MAX_STREAMS: Final = 16_384
"""Streams that a client may have open. The owner has a lower limit, and refuses with a better answer."""
DRAIN_PING: Final = b"draining"


class ServerConnection(Http2Connection[ServerStream]):
    """The server's end of a connection."""

    def __init__(
        self,
        accept: Accept,
        clock: Callable[[], float],
        shell: Shell,
        report: Callable[[Exception], None],
    ) -> None:
        super().__init__(clock, shell, report)
        self._accept = accept
        self._greeted = False
        self._accepting = True
        self.out.write(own_settings({frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS}))

    def _skip_preface(self, data: bytes) -> int:
        if self._greeted:
            return 0
        if data[:24] != PREFACE[: len(data)]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not HTTP/2")
        if len(data) < len(PREFACE):
            self._partial = data
            return -1
        self._greeted = True
        return len(PREFACE)

    def _block_received(self, stream_id: int, block: bytes, ended: bool) -> None:
        if not self.settled:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if stream_id <= self._last_id or not stream_id & 1:
            self._late_block(stream_id, block, ended)
            return
        self._last_id = stream_id
        try:
            head = self._headers.request(block)
        except Malformed as error:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from error
        if not self._accepting:
            self._remember_reset(stream_id)
            return
        if len(self.streams) >= MAX_STREAMS:
            raise StreamFault(stream_id, ErrorCode.REFUSED_STREAM, "too many streams")
        if ended and head.content_length > 0:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "wrong content-length")
        if not head.grpc:
            self.streams[stream_id] = stranger = NotGrpcStream(self, stream_id, head.content_length)
            if ended:
                stranger.data(b"", 0, 0, 0, True)
            return
        self.streams[stream_id] = stream = ServerStream(self, stream_id, head.content_length)
        self._recent = stream
        owner = self._accept(stream, head.path, head.metadata)
        if not stream.done:
            stream.events = owner
        if ended:
            stream.data(b"", 0, 0, 0, True)

    def _late_block(self, stream_id: int, block: bytes, ended: bool) -> None:
        """HEADERS on an open or closed stream."""
        stream = self.streams.get(stream_id)
        fields = self._headers.fields(block)
        if stream is not None:
            stream.trailers_received(fields, ended)
        elif stream_id in self._reset:
            self.calm.spend("HEADERS on closed streams")
        elif stream_id in self._gone:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
        else:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream id out of order")

    def _close_faulty(self, stream: ServerStream, fault: StreamFault) -> None:
        stream.reset_received(fault.code)

    def _close_lost(self, stream: ServerStream, text: str) -> None:
        try:
            stream.reset_received(ErrorCode.CANCEL)
        except Exception as error:
            self._report(error)

    def drain(self) -> None:
        """Accept no new streams. It is `closed` once the open ones have ended. There are two GOAWAYs, as
        RFC 9113 §6.8 advises: streams that are on their way when the first is sent are still served.
        """
        if self.draining or self.closed:
            return
        if not self.settled:
            self.fail(ErrorCode.NO_ERROR, "draining")
            return
        self.write(goaway(LARGEST_ID, ErrorCode.NO_ERROR) + frame(PING, 0, 0, DRAIN_PING))

    def _pong(self, payload: bytes) -> None:
        if payload == DRAIN_PING and not self.draining:
            self.draining = True
            self._accepting = False
            self.write(goaway(self._last_id, ErrorCode.NO_ERROR))
            if not self.streams:
                self._drained()

    def _goaway(self, last_id: int, code: int, debug: bytes) -> None:
        """Nothing to do: the client closes the connection when it is done."""
