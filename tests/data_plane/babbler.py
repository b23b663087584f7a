"""A picker, in a process of its own, that says nothing without end on every stream it is given."""

import asyncio
import json
import socket
from collections.abc import Mapping

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingResponse
from epp_client.picker.client import PROCESS
from epp_client.wire.native import NativeTransport
from epp_client.wire.status import OK, UNIMPLEMENTED, Status
from epp_client.wire.transport import NO_OWNER, Stream, StreamEvents


def nothing() -> bytes:
    """A body answer without a body, which ends nothing."""
    reply = ProcessingResponse()
    reply.request_body.response.body_mutation.streamed_response.SetInParent()
    return reply.SerializeToString()


class _Call(StreamEvents):
    def __init__(self, stream: Stream, talking: "set[_Call]") -> None:
        self.stream, self._talking = stream, talking

    def message_received(self, message: bytes) -> None:
        self._talking.add(self)

    def half_closed(self) -> None:
        self.stream.finish(OK)
        self.closed(OK)

    def closed(self, status: Status) -> None:
        self._talking.discard(self)

    def pause_writing(self) -> None:
        self._talking.discard(self)

    def resume_writing(self) -> None:
        self._talking.add(self)


async def _main() -> None:
    talking: set[_Call] = set()

    def accept(stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        if path != PROCESS:
            stream.finish(Status(UNIMPLEMENTED, "no health here"))
            return NO_OWNER
        return _Call(stream, talking)

    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await NativeTransport().serve_socket(sock, accept)
    print(json.dumps({"address": f"127.0.0.1:{sock.getsockname()[1]}"}), flush=True)
    message = nothing()
    while True:
        for call in list(talking):
            call.stream.send(message)
        await asyncio.sleep(0 if talking else 0.01)


if __name__ == "__main__":
    asyncio.run(_main())
