"""A model server that records what arrives and answers as `x-answer` says, over HTTP/1.1 and h2c."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from tests.transparency.http2 import Http2
from tests.transparency.kinds import ANSWER, ANSWERS, CASE, DATE, Answer, Fields
from tests.transparency.received import (
    LIMIT,
    Received,
    read_message,
    written_end,
    written_head,
    written_piece,
)

PATIENCE = 20.0
"""Seconds that a paced answer waits for its client: past it something on the way holds it back."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_ALWAYS = (("date", DATE), ("server", "vllm"))


@dataclass
class ModelServer:
    """Where the cases of one run meet: what arrived, and whether the client has begun to read."""

    port: int = 0
    seen: dict[str, list[Received]] = field(default_factory=dict)
    begun: dict[str, asyncio.Event] = field(default_factory=dict)
    """Set by a case's client with the first byte of a body."""
    held_back: set[str] = field(default_factory=set)
    """Cases whose client got nothing while the answer was paused."""

    def client_of(self, case: str) -> asyncio.Event:
        """The event of a case."""
        return self.begun.setdefault(case, asyncio.Event())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            first = await reader.readexactly(3)
            if first == _PREFACE[:3]:
                await self._serve_http2(reader, writer, first)
            else:
                reader._buffer[:0] = first  # type: ignore[attr-defined]
                await self._serve_http1(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _record(self, received: Received) -> tuple[str, Answer]:
        headers = dict(received.headers)
        case = headers.get(CASE, "")
        self.seen.setdefault(case, []).append(received)
        return case, ANSWERS[headers.get(ANSWER, "length")]

    async def _serve_http1(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while (received := await read_message(reader, to=None)) is not None:
            case, answer = self._record(received)
            if received.end != "complete":
                return
            writer.write(written_head(f"HTTP/1.1 {answer.status} Any", _head(answer)))
            if received.start["method"] != "HEAD":
                await self._write_body(writer, case, answer)
            await writer.drain()
            if answer.framing == "close":
                return

    async def _write_body(self, writer: asyncio.StreamWriter, case: str, answer: Answer) -> None:
        chunked = answer.framing == "chunked"
        for number, piece in enumerate(answer.body):
            if answer.paced and number == len(answer.body) - 1:
                await self._wait_for_client(case)
            writer.write(written_piece(piece, chunked=chunked))
            await writer.drain()
        if chunked:
            writer.write(written_end(answer.trailers))

    async def _wait_for_client(self, case: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self.client_of(case).wait()
        except TimeoutError:
            self.held_back.add(case)

    async def _serve_http2(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes
    ) -> None:
        connection = Http2(reader, writer, client=False)
        async with asyncio.TaskGroup() as tasks:
            async for stream, received in connection.receive(first):
                case, answer = self._record(received)
                if received.end == "complete":
                    tasks.create_task(
                        self._answer_http2(connection, stream, case, answer, received)
                    )

    async def _answer_http2(
        self, connection: Http2, stream: int, case: str, answer: Answer, received: Received
    ) -> None:
        head = ((":status", str(answer.status)), *_head(answer, http2=True))
        bodiless = received.start["method"] == "HEAD"
        wait = partial(self._wait_for_client, case) if answer.paced else None
        # What the client got shows it when Envoy has gone.
        with contextlib.suppress(ConnectionError):
            await connection.send(
                stream,
                head,
                () if bodiless else answer.body,
                () if bodiless else answer.trailers,
                wait,
            )


def _head(answer: Answer, *, http2: bool = False) -> Fields:
    framing: Fields = ()
    if answer.framing == "length":
        framing = (("content-length", str(sum(map(len, answer.body)))),)
    elif answer.framing == "chunked" and not http2:
        framing = (("transfer-encoding", "chunked"),)
    elif answer.framing == "close" and not http2:
        framing = (("connection", "close"),)
    return (*_ALWAYS, *answer.headers, *framing)


@asynccontextmanager
async def running_model_server(hosts: tuple[str, ...]) -> AsyncIterator[ModelServer]:
    """Serve on one port of all `hosts`."""
    model = ModelServer()
    servers = []
    try:
        for host in hosts:
            server = await asyncio.start_server(model.serve, host, model.port, limit=LIMIT)
            servers.append(server)
            model.port = server.sockets[0].getsockname()[1]
        yield model
    finally:
        for server in servers:
            server.close()
