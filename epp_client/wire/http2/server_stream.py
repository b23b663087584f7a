"""A server's stream: its trailers, its end, and the answer to requests that are not gRPC.

Pure, like `stream.py`.
"""

from typing import Final

from mypy_extensions import i64

from epp_client.wire.http2.frames import ErrorCode, StreamFault, rst_stream
from epp_client.wire.http2.grpc import status_of_cancelled
from epp_client.wire.http2.headers import (
    NOT_GRPC,
    RESPONSE,
    TRAILERS_OK,
    Fields,
    Malformed,
    check_trailers,
    trailers,
)
from epp_client.wire.http2.inbox import Inbox
from epp_client.wire.http2.stream import Http2Stream
from epp_client.wire.status import OK, Status
from epp_client.wire.transport import NO_OWNER

_NOT_GRPC_TEXT: Final = b"only gRPC is served here: POST with content-type application/grpc\n"


class ServerStream(Http2Stream):
    """A call from a client."""

    __slots__ = ()

    def __init__(self, connection: Inbox, stream_id: int, content_length: int) -> None:
        super().__init__(connection, stream_id, NO_OWNER)
        self._expected = content_length

    def finish(self, status: Status = OK) -> None:
        """End the call with `status`, after all queued messages."""
        if self._finished or self.over:
            return
        if not self._announced:
            self._announced = True
            self._finish(RESPONSE + trailers(status))
        # Usually it is this one, and `==` of a NamedTuple costs a hundred times as much.
        elif status is OK or status == OK:
            self._finish(TRAILERS_OK)
        else:
            self._finish(trailers(status))
        self.events = NO_OWNER
        # Discard what is still received.
        self._reading = True
        self._drop_held()
        self.drop_partial()
        if self.on_end is not None:
            self.on_end()
            self.on_end = None

    def trailers_received(self, fields: Fields, ended: bool) -> None:
        """Trailers of the request were received, which have no meaning in gRPC."""
        if self.remote_ended:
            raise StreamFault(self.id, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        if not ended:
            raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR, "trailers without END_STREAM")
        try:
            check_trailers(fields)
        except Malformed as error:
            raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR, str(error)) from error
        self.data(b"", 0, 0, 0, True)

    def reset_received(self, code: int) -> None:
        """The client cancelled the call."""
        self.close(status_of_cancelled(code))

    def fail(self, status: Status) -> None:
        """End the call because the client broke a rule of gRPC; tell the client and the owner."""
        events = self.events
        self.finish(status)
        events.closed(status)

    def _remote_done(self) -> None:
        if self.local_ended:
            self.connection.forget(self)
        else:
            self.events.half_closed()

    def _local_done(self) -> None:
        self.local_ended = True
        if self.remote_ended:
            self.connection.forget(self)
        else:
            # The response is complete: ask the client not to send the rest (RFC 9113 §8.1).
            self.connection.write(rst_stream(self.id, ErrorCode.NO_ERROR))
            self.connection.forget(self, was_reset=True)


class NotGrpcStream(ServerStream):
    """A request that is not gRPC, answered with 415 after its end."""

    __slots__ = ()

    def _payload(self, data: bytes, start: i64, stop: i64) -> None:
        """Discard it."""

    def _remote_done(self) -> None:
        if self._finished:
            return
        self._announce(NOT_GRPC)
        self._enqueue(_NOT_GRPC_TEXT)
        self._finish(b"")
        self.connection.blocked[self] = None
        self.connection.pump_stream(self)
