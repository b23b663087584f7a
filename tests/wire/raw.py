"""Peers that speak in bytes: frames written by hand, and what came back, frame by frame."""

from collections.abc import Sequence
from typing import NamedTuple

import h2.connection

from epp_client.wire.http2 import frames
from epp_client.wire.http2.client import ClientConnection
from epp_client.wire.http2.frames import ErrorCode
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection

from .owners import PATH, Accepting, raise_it

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "a:1"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def split(output: bytes) -> list[Frame]:
    """The frames in `output`, which must be whole."""
    found = []
    position = 0
    while position < len(output):
        word, flags, stream_id = frames.HEAD.unpack_from(output, position)
        stop = position + 9 + (word >> 8)
        assert stop <= len(output), "a frame was cut"
        found.append(Frame(word & 0xFF, flags, stream_id, output[position + 9 : stop]))
        position = stop
    return found


def error_of(output: bytes) -> ErrorCode | None:
    """The code of the GOAWAY in `output`."""
    for frame in split(output):
        if frame.kind == frames.GOAWAY:
            return ErrorCode(frames.word(frame.payload, 4))
    return None


def block(fields: Sequence[tuple[str, str]] = HEADERS) -> bytes:
    """A header block without a dynamic table, as another implementation writes it."""
    encoder = h2.connection.H2Connection().encoder
    encoder.header_table_size = 0
    return bytes(encoder.encode(fields))


BLOCK = block()


def request(stream_id: int, *, ended: bool = False) -> bytes:
    """HEADERS that open a call."""
    flags = frames.END_HEADERS | (frames.END_STREAM if ended else 0)
    return frames.frame(frames.HEADERS, flags, stream_id, BLOCK)


def message(size: int) -> bytes:
    """One gRPC message with its prefix."""
    return b"\0" + size.to_bytes(4) + bytes(size)


def data(stream_id: int, payload: bytes, *, ended: bool = False) -> bytes:
    """DATA frames."""
    limit = frames.DEFAULT_FRAME
    pieces = [payload[n : n + limit] for n in range(0, len(payload), limit)] or [b""]
    last = len(pieces) - 1
    return b"".join(
        frames.frame(frames.DATA, int(ended and n == last), stream_id, piece)
        for n, piece in enumerate(pieces)
    )


def settled_server(
    accepting: Accepting | None = None, settings: dict[int, int] | None = None
) -> ServerConnection:
    """A server whose client has sent its preface and SETTINGS."""
    server = ServerConnection(accepting or Accepting(), lambda: 0.0, Shell(), raise_it)
    server.receive(frames.PREFACE + frames.settings(settings or {}))
    server.take()
    return server


def settled_client() -> ClientConnection:
    """A client whose server has sent its SETTINGS."""
    client = ClientConnection("http", "a:1", lambda: 0.0, Shell(), raise_it)
    client.receive(frames.settings({}))
    client.take()
    return client
