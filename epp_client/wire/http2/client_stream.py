"""A client's stream: response headers, trailers, and the status of responses without them.

Pure, like `stream.py`.
"""

from mypy_extensions import i64, mypyc_attr

from epp_client.wire.http2.frames import ErrorCode, StreamFault, rst_stream
from epp_client.wire.http2.headers import ResponseHead
from epp_client.wire.http2.inbox import Inbox
from epp_client.wire.http2.stream import Http2Stream
from epp_client.wire.status import OK, UNKNOWN, Status
from epp_client.wire.transport import StreamEvents


@mypyc_attr(free_list_len=1)
class ClientStream(Http2Stream):
    """A call to a server, whose request headers have been sent."""

    __slots__ = ("_answered",)

    def __init__(self, connection: Inbox, stream_id: int, events: StreamEvents) -> None:
        super().__init__(connection, stream_id, events)
        self._announced = True
        self._answered = False

    def finish(self, status: Status = OK) -> None:
        """Half-close, after all queued messages."""
        del status
        if not self._finished and not self.over:
            self._finish(b"")

    def headers_received(self, head: ResponseHead, ended: bool) -> None:
        """Response headers, interim headers or trailers were received."""
        if not self._answered:
            if 100 <= head.http_status < 200 and not ended:
                self.connection.calm.spend("interim responses")
                return
            if not head.http_status:
                raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR, "a response without :status")
            self._answered = True
            if head.http_status != 200:
                self.fail(head.verdict)
                return
            if not head.grpc:
                self.fail(Status(UNKNOWN, "the peer's response is not application/grpc"))
                return
            self._expected = head.content_length
        elif head.http_status or not ended:
            raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR, "HEADERS that are not trailers")
        if ended:
            self._verdict = head.verdict
            self.data(b"", 0, 0, 0, True)

    def _payload(self, data: bytes, start: i64, stop: i64) -> None:
        if not self._answered:
            raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR, "DATA before HEADERS")
        super()._payload(data, start, stop)

    def reset_received(self, code: int) -> None:
        """The server reset the stream. Trailers that came before still count."""
        if self._verdict is not None:
            self.close(self._verdict)
        else:
            super().reset_received(code)

    def close(self, status: Status) -> None:
        """End the stream, unless a complete response still waits for a paused owner."""
        if self._held is None or not self.remote_ended:
            super().close(status)
            return
        self.connection.forget(self)
        self.local_ended = self._finished = True
        self._queue, self.queued = None, 0

    def fail(self, status: Status) -> None:
        """End the call with a status of our own."""
        if not self.local_ended or not self.remote_ended:
            self.connection.write(rst_stream(self.id, ErrorCode.CANCEL))
        self.close(status)

    def _remote_done(self) -> None:
        if not self.local_ended:
            self.connection.write(rst_stream(self.id, ErrorCode.NO_ERROR))
        self.close(self._verdict or Status(UNKNOWN, "the stream ended without a grpc-status"))
