"""A picker that decides nothing: every request goes to one endpoint, with prepared answers.

It answers at the end of the body, like GAIE's, and uses our own wire, so that it costs as little as the
measured relay.
"""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Mapping

import uvloop

from epp_client.ext_proc.messages import Answer, Phase, read_message
from epp_client.ext_proc.replies import EMPTY, streamed_body
from epp_client.picker.steering import destination_reply
from epp_client.wire.native import NativeServer
from epp_client.wire.status import OK, Status
from epp_client.wire.transport import Stream, StreamEvents


class Conversation(StreamEvents):
    """One ext_proc stream."""

    __slots__ = ("_bodies", "_pick", "_stream")

    def __init__(self, stream: Stream, pick: bytes) -> None:
        self._stream = stream
        self._pick = pick
        self._bodies: list[bytes] = []

    def message_received(self, raw: bytes) -> None:
        """Answer one ProcessingRequest."""
        message = read_message(raw)
        send = self._stream.send
        match message.phase:
            case Phase.REQUEST_HEADERS:
                if message.end_of_stream:
                    send(self._pick)
            case Phase.REQUEST_BODY:
                self._bodies.append(message.raw[message.start : message.end])
                if message.end_of_stream:
                    send(self._pick)
                    for body in self._bodies[:-1]:
                        send(streamed_body(Answer.REQUEST_BODY, body, False))
                    send(streamed_body(Answer.REQUEST_BODY, self._bodies[-1], True))
                    self._bodies.clear()
            case Phase.RESPONSE_HEADERS:
                send(EMPTY[Answer.RESPONSE_HEADERS])
            case Phase.RESPONSE_BODY:
                body = message.raw[message.start : message.end]
                send(streamed_body(Answer.RESPONSE_BODY, body, message.end_of_stream))

    def half_closed(self) -> None:
        """End the stream."""
        self._stream.finish(OK)

    def closed(self, status: Status) -> None:
        """Nothing is kept."""

    def pause_writing(self) -> None:
        """Benchmarks stay within the windows."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


async def main(endpoint: str) -> None:
    """Serve on a free port of 127.0.0.1 and print it."""
    pick = destination_reply((endpoint,), ())

    def accept(stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        return Conversation(stream, pick)

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = NativeServer(accept)
    await server.listen(listener)
    print(json.dumps({"address": f"127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
