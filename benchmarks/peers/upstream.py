"""A minimal model server: answers a POST at once, or streams chunks with time stamps.

`/stream?chunks=N&interval_us=I` sends N server-sent events of some 60 bytes, each with the time
(CLOCK_MONOTONIC, which all processes of a machine share) at which it was sent. A chat completion with
`"stream": true` streams like OpenAI's. A request with less body than its header `x-body-size` says gets a
400, as a relay must not lose bodies.
"""

import asyncio
import itertools
import json
import signal
import sys
import time
from urllib.parse import parse_qsl, urlsplit

import uvloop

ANSWER = json.dumps({"choices": [{"message": {"content": "Hello."}}], "usage": {}}).encode()
PLAIN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CUT = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"
TOKEN = b'data: {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "t "}}]}\n\n'
DONE = b"data: [DONE]\n\n"
TOKENS, TOKEN_SECONDS = 20, 0.005
GOLDEN = 0.618034
"""Multiples of it, without their whole parts, are spread evenly."""
ASKED = 4096
"""Bytes of the body that are searched for `"stream": true`."""


def chunk(data: bytes) -> bytes:
    """A chunk of HTTP/1.1's chunked coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """One connection of Envoy, with one request after the other."""

    def __init__(self) -> None:
        self._tail = b""
        self._head: bytes | None = None
        self._left = 0
        self._chunked = False
        self._size = 0
        self._begin = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            data = self._tail + data
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._tail = head
                return
            self._head, self._tail = head, b""
            lower = head.lower()
            self._chunked = b"transfer-encoding: chunked" in lower
            _, length, rest = lower.partition(b"content-length: ")
            self._left = int(rest.partition(b"\r\n")[0]) if length else 0
            self._size, self._begin = 0, data[:ASKED]
        self._size += len(data)
        if self._chunked:
            # Bodies are text here, which cannot contain the last chunk.
            self._tail = (self._tail + data)[-5:]
            ended = self._tail == b"0\r\n\r\n"
        else:
            self._left -= len(data)
            ended = self._left <= 0
        if ended:
            head, self._head, self._tail = self._head, None, b""
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        write = self._transport.write  # type: ignore[attr-defined]
        _, stated, size = head.partition(b"x-body-size: ")
        if stated and self._size < int(size.partition(b"\r\n")[0]):
            write(CUT)
            return
        target = head.split(b" ", 2)[1].decode()
        if target.startswith("/stream"):
            query = dict(parse_qsl(urlsplit(target).query))
            self._own(int(query["chunks"]), int(query["interval_us"]) / 1e6, b"")
        elif b'"stream": true' in self._begin:
            self._own(TOKENS, TOKEN_SECONDS, TOKEN)
        else:
            write(PLAIN)

    def _own(self, chunks: int, interval: float, event: bytes) -> None:
        task = asyncio.create_task(self._stream(chunks, interval, event))
        _STREAMS.add(task)
        task.add_done_callback(_STREAMS.discard)

    async def _stream(self, chunks: int, interval: float, event: bytes) -> None:
        write = self._transport.write  # type: ignore[attr-defined]
        write(STREAM)
        # Streams of real model servers are not in step. In step, all chunks would wait for one another.
        due = time.monotonic() + interval * (next(_NUMBER) * GOLDEN % 1 - 1)
        for _ in range(chunks):
            due += interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            stamped = b'data: {"sent": %d, "text": " token token"}\n\n' % time.monotonic_ns()
            write(chunk(event or stamped))
        write((chunk(DONE) if event else b"") + b"0\r\n\r\n")


_STREAMS: set[asyncio.Task[None]] = set()
_NUMBER = itertools.count()


async def main(host: str) -> None:
    """Serve on a free port of `host` and print it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, host, 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"address": f"{host}:{port}"}), flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
