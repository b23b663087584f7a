"""A picker that answers hundreds of megabytes to one request, as fast as it is read."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from epp_client.picker.client import PROCESS
from epp_client.wire.native import NativeTransport
from epp_client.wire.status import OK, UNIMPLEMENTED, Status
from epp_client.wire.transport import NO_OWNER, Stream, StreamEvents
from tests.relay.conversation import answered, picked, streamed

PIECE = b"y" * 64_000
_AT_ONCE = 16


class FloodingPicker:
    """Answers `pieces` to a request, or to the response when the request has `x-flood`."""

    def __init__(self, endpoint: str, pieces: int) -> None:
        self.endpoint = endpoint
        self.pieces = pieces
        self.sent = 0
        """Pieces that have been given to a socket."""
        self.ended = asyncio.Event()
        """A stream was ended by its reader."""
        self.address = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{sock.getsockname()[1]}"
        server = await NativeTransport().serve_socket(sock, self._accept)
        try:
            yield
        finally:
            await server.drain(0)

    def _accept(self, stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        if path != PROCESS:
            stream.finish(Status(UNIMPLEMENTED, "no health here"))
            return NO_OWNER
        return _Call(self, stream)


class _Call(StreamEvents):
    def __init__(self, picker: FloodingPicker, stream: Stream) -> None:
        self._picker, self._stream = picker, stream
        self._paused = self._over = self._response = False
        self._left = 0

    def message_received(self, message: bytes) -> None:
        said = ProcessingRequest.FromString(message)
        match said.WhichOneof("request"):
            case "request_headers":
                headers = said.request_headers.headers.headers
                self._response = any(h.key == "x-flood" for h in headers)
                self._stream.send(picked(self._picker.endpoint))
                self._begin(not self._response)
            case "request_body" if self._response:
                self._stream.send(streamed(said.request_body.body, said.request_body.end_of_stream))
            case "response_headers":
                self._stream.send(answered("response_headers"))
                self._begin(self._response)

    def _begin(self, flood: bool) -> None:
        if flood:
            self._left = self._picker.pieces
            self._go_on()

    def _go_on(self) -> None:
        for _ in range(_AT_ONCE):
            if self._paused or self._over or not self._left:
                return
            self._left -= 1
            self._picker.sent += 1
            self._stream.send(streamed(PIECE, not self._left, response=self._response))
        asyncio.get_running_loop().call_soon(self._go_on)

    def half_closed(self) -> None:
        self._stream.finish(OK)
        self.closed(OK)

    def closed(self, status: Status) -> None:
        self._over = True
        self._picker.ended.set()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._go_on()
