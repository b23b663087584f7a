"""What our server answers to a client that breaks the rules of HTTP/2: which end, and of what."""

import pytest

from epp_client.wire.http2 import frames
from epp_client.wire.http2.frames import ErrorCode
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection
from epp_client.wire.status import Status

from .owners import Accepting, raise_it
from .raw import (
    BLOCK,
    HEADERS,
    block,
    data,
    error_of,
    message,
    request,
    settled_server,
    split,
)

HALF_A_PRIORITY = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.PRIORITIZED, 1, b"\0\0")
ON_ITSELF = frames.frame(
    frames.HEADERS, frames.END_HEADERS | frames.PRIORITIZED, 1, b"\0\0\0\1\0" + BLOCK
)
WHOLE_WINDOW = frames.window_update(0, (1 << 31) - 1)
LARGEST_INITIAL = frames.settings({frames.INITIAL_WINDOW_SIZE: (1 << 31) - 1})


def headers(stream_id: int, piece: bytes = BLOCK, *, ended: bool = False) -> bytes:
    flags = frames.END_HEADERS | (frames.END_STREAM if ended else 0)
    return frames.frame(frames.HEADERS, flags, stream_id, piece)


def with_length(value: str) -> bytes:
    return block([*HEADERS, ("content-length", value)])


def fresh_server() -> ServerConnection:
    return ServerConnection(Accepting(), lambda: 0.0, Shell(), raise_it)


def test_a_preface_may_come_in_pieces() -> None:
    server = fresh_server()
    for byte in frames.PREFACE + frames.settings({}):
        server.receive(bytes([byte]))
    assert server.settled
    assert error_of(server.take()) is None


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        frames.PREFACE[:-1] + b"x",
        frames.PREFACE + frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.PREFACE + request(1),
    ],
    ids=["HTTP/1.1", "a wrong preface", "PING before SETTINGS", "HEADERS before SETTINGS"],
)
def test_a_client_that_does_not_begin_as_http2_is_told_and_left(said: bytes) -> None:
    server = fresh_server()
    server.receive(said)
    assert error_of(server.take()) is ErrorCode.PROTOCOL_ERROR
    assert server.closed


@pytest.mark.parametrize(
    ("said", "code"),
    [
        pytest.param(HALF_A_PRIORITY, ErrorCode.FRAME_SIZE_ERROR, id="half a priority"),
        pytest.param(ON_ITSELF, ErrorCode.PROTOCOL_ERROR, id="depends on itself"),
        pytest.param(frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR, id="window of nothing"),
        pytest.param(WHOLE_WINDOW, ErrorCode.FLOW_CONTROL_ERROR, id="connection window overflows"),
        pytest.param(
            request(1) + frames.window_update(1, 1) + LARGEST_INITIAL,
            ErrorCode.FLOW_CONTROL_ERROR,
            id="stream windows overflow",
        ),
        pytest.param(
            frames.rst_stream(1, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR, id="RST of nothing"
        ),
        pytest.param(
            frames.frame(frames.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR, id="short PING"
        ),
        pytest.param(request(2), ErrorCode.PROTOCOL_ERROR, id="a server's stream id"),
        pytest.param(request(5) + request(3), ErrorCode.PROTOCOL_ERROR, id="ids that go back"),
    ],
)
def test_what_ends_the_connection(said: bytes, code: ErrorCode) -> None:
    server = settled_server()
    server.receive(said)
    assert error_of(server.take()) is code
    assert server.closed


def test_headers_on_a_stream_that_has_ended_end_the_connection() -> None:
    accepting = Accepting(echo=True)
    server = settled_server(accepting)
    server.receive(request(1) + data(1, message(3), ended=True))
    assert not server.streams
    server.take()
    server.receive(request(1))
    assert error_of(server.take()) is ErrorCode.STREAM_CLOSED


def test_headers_on_a_stream_that_we_reset_may_have_been_on_their_way() -> None:
    server = settled_server()
    server.receive(request(1) + data(1, b"\1\0\0\0\1x"))
    assert not server.streams
    server.take()
    server.receive(headers(1, block([("x-late", "yes")]), ended=True))
    assert server.take() == b""


@pytest.mark.parametrize(
    ("said", "code"),
    [
        pytest.param(headers(1, ended=False), ErrorCode.PROTOCOL_ERROR, id="HEADERS twice"),
        pytest.param(headers(1, ended=True), ErrorCode.PROTOCOL_ERROR, id="pseudo-headers"),
        pytest.param(
            data(1, message(1), ended=True) + headers(1, block([("x", "y")]), ended=True),
            ErrorCode.STREAM_CLOSED,
            id="after the end",
        ),
    ],
)
def test_trailers_that_are_none_end_their_stream_alone(said: bytes, code: ErrorCode) -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(request(1) + said + request(3))
    [reset] = [f for f in split(server.take()) if f.kind == frames.RST_STREAM]
    assert (reset.stream_id, frames.word(reset.payload)) == (1, code)
    assert accepting.owners[0].status is not None
    assert accepting.owners[1].status is None


def test_trailers_end_the_request() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(request(1) + data(1, message(2)) + headers(1, block([("x", "y")]), ended=True))
    assert (accepting.owners[0].messages, accepting.owners[0].half) == ([bytes(2)], True)


@pytest.mark.parametrize(
    "said",
    [
        headers(1, with_length("9")) + data(1, message(5)),
        headers(1, with_length("11")) + data(1, message(5), ended=True),
        headers(1, with_length("11"), ended=True),
        headers(1, with_length("ten")),
        headers(1, with_length("9" * 19)),
    ],
    ids=["too much", "too little", "nothing", "no number", "no sane number"],
)
def test_a_content_length_that_is_wrong_ends_its_stream_alone(said: bytes) -> None:
    server = settled_server()
    server.receive(said)
    found = split(server.take())
    assert [f.stream_id for f in found if f.kind == frames.RST_STREAM] == [1]
    assert not [f for f in found if f.kind == frames.GOAWAY]


def test_a_content_length_that_is_right_changes_nothing() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(headers(1, with_length("10")) + data(1, message(5), ended=True))
    assert (accepting.owners[0].messages, accepting.owners[0].half) == ([bytes(5)], True)


def test_a_call_may_end_with_an_error_after_its_messages() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(request(1))
    stream = accepting.owners[0].stream
    assert stream is not None
    stream.send(b"hello")
    stream.finish(Status(8, "no more"))
    kinds = [f.kind for f in split(server.take())]
    assert kinds[:3] == [frames.HEADERS, frames.DATA, frames.HEADERS]


def test_a_connection_that_drains_before_it_has_begun_ends_at_once() -> None:
    server = fresh_server()
    server.drain()
    assert error_of(server.take()) is ErrorCode.NO_ERROR
    assert server.closed
