"""What arrived at one end, and how it is read off an HTTP/1 connection byte by byte."""

import asyncio
from dataclasses import dataclass, field

from tests.transparency.kinds import Fields

LIMIT = 2 * 1024 * 1024
"""Bytes of a head that a reader takes."""


@dataclass
class Received:
    """One message, as it arrived."""

    start: dict[str, str]
    """`status`, or `method`, `path` and `host`."""
    headers: Fields
    framing: str
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = ()
    interim: tuple[str, ...] = ()
    """Statuses of the 1xx answers before it."""
    end: str = "cut"
    """`complete`, or `cut` when the connection or stream ended first."""


async def read_message(
    reader: asyncio.StreamReader,
    *,
    to: str | None,
    on_body: asyncio.Event | None = None,
    on_interim: asyncio.Event | None = None,
) -> Received | None:
    """One HTTP/1 message; None when the connection ends before one begins.

    `to` is the method of the request that this answers; None: it is a request. `on_body` is set with the
    first byte of its body, `on_interim` with a 1xx answer before it.
    """
    interim: list[str] = []
    while True:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        received = _begun(line, lines, to)
        status = received.start.get("status", "")
        if not status.startswith("1"):
            break
        interim.append(status)
        if on_interim is not None:
            on_interim.set()
    received.interim = tuple(interim)
    try:
        await _read_body(reader, received, to, on_body)
        received.end = "complete"
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        if isinstance(error, asyncio.IncompleteReadError):
            received.body += error.partial
    return received


def _begun(line: str, lines: list[str], to: str | None) -> Received:
    headers = tuple(_field(text) for text in lines)
    first, second, *_ = line.split(" ")
    values = {name.lower(): value for name, value in headers}
    if to is None:
        start = {"method": first, "path": second, "host": values.get("host", "")}
        framing = "none"
    else:
        start = {"status": second}
        framing = "close"
    if values.get("transfer-encoding") == "chunked":
        framing = "chunked"
    elif "content-length" in values:
        framing = "length"
    if to == "HEAD" or second in ("204", "304") or second.startswith("1"):
        framing = "none"
    return Received(start, headers, framing)


def _field(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name, value.strip(" ")


async def _read_body(
    reader: asyncio.StreamReader, received: Received, to: str | None, on_body: asyncio.Event | None
) -> None:
    def add(data: bytes) -> None:
        received.body += data
        if data and on_body is not None:
            on_body.set()

    values = {name.lower(): value for name, value in received.headers}
    match received.framing:
        case "length":
            left = int(values["content-length"])
            while left:
                data = await reader.read(min(left, 65_536))
                if not data:
                    raise ConnectionError("the connection ended within a body")
                add(data)
                left -= len(data)
        case "chunked":
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                add((await reader.readexactly(size + 2))[:-2])
            trailers = []
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                trailers.append(_field(line.decode("latin-1").removesuffix("\r\n")))
            received.trailers = tuple(trailers)
        case "close":
            while data := await reader.read(65_536):
                add(data)


def written_head(line: str, fields: Fields) -> bytes:
    """A head as it is sent."""
    lines = [line, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def written_piece(piece: bytes, *, chunked: bool) -> bytes:
    """A piece of a body as it is sent."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece


def written_end(trailers: Fields) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n" + "".join(f"{n}: {v}\r\n" for n, v in trailers).encode("latin-1") + b"\r\n"
