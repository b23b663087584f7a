"""A client that writes each kind of request byte by byte, and records what comes back."""

import asyncio
import contextlib

from tests.transparency.http2 import Http2
from tests.transparency.kinds import Fields, Request
from tests.transparency.received import (
    LIMIT,
    Received,
    read_message,
    written_end,
    written_head,
    written_piece,
)

HOST = "models.example"
"""The authority of every request."""


async def ask(
    address: tuple[str, int],
    request: Request,
    extra: Fields,
    on_body: asyncio.Event,
    patience: float,
) -> Received | None:
    """Send one request on a connection of its own; None when no answer begins.

    `on_body` is set with the first byte of the answer's body. An answer that has not ended after
    `patience` seconds is given as `silent`.
    """
    reader, writer = await asyncio.open_connection(*address, limit=LIMIT)
    asking = _ask_http2 if request.version == "2" else _ask_http1
    try:
        async with asyncio.timeout(patience):
            return await asking(reader, writer, request, extra, on_body)
    except TimeoutError:
        return Received({}, (), "none", end="silent")
    finally:
        writer.close()


async def _ask_http1(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request: Request,
    extra: Fields,
    on_body: asyncio.Event,
) -> Received | None:
    may_go_on = asyncio.Event()
    if not request.expects_continue:
        may_go_on.set()
    sending = asyncio.create_task(_send_http1(writer, request, extra, may_go_on))
    try:
        return await read_message(reader, to=request.method, on_body=on_body, on_interim=may_go_on)
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sending


async def _send_http1(
    writer: asyncio.StreamWriter, request: Request, extra: Fields, may_go_on: asyncio.Event
) -> None:
    chunked = request.framing == "chunked"
    framing: Fields = ()
    if request.framing == "length":
        framing = (("content-length", str(sum(map(len, request.body)))),)
    elif chunked:
        framing = (("transfer-encoding", "chunked"),)
    if request.expects_continue:
        framing += (("expect", "100-continue"),)
    line = f"{request.method} {request.path} HTTP/{request.version}"
    writer.write(written_head(line, (("host", HOST), *request.headers, *extra, *framing)))
    # an answer may come before the end
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        await may_go_on.wait()
        for piece in request.body:
            writer.write(written_piece(piece, chunked=chunked))
            await writer.drain()
        if chunked:
            writer.write(written_end(request.trailers))
            await writer.drain()


async def _ask_http2(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request: Request,
    extra: Fields,
    on_body: asyncio.Event,
) -> Received | None:
    connection = Http2(reader, writer, client=True)
    head: Fields = (
        (":method", request.method),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", request.path),
        *request.headers,
        *extra,
    )
    if request.framing == "length":
        head += (("content-length", str(sum(map(len, request.body)))),)
    if request.trailers:
        head += (("te", "trailers"),)
    sending = asyncio.create_task(_send_http2(connection, request, head))
    try:
        async for _, received in connection.receive(on_body=on_body):
            return received
        return None
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending


async def _send_http2(connection: Http2, request: Request, head: Fields) -> None:
    with contextlib.suppress(ConnectionError):
        await connection.send(1, head, request.body, request.trailers)
