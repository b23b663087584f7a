"""The connection state machine, without a socket: both ends joined in memory, and `h2` as an oracle."""

from collections.abc import Callable
from typing import TypeVar

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.wire.http2 import frames
from epp_client.wire.http2.calm import BURST, RATE, Calm
from epp_client.wire.http2.client import ClientConnection
from epp_client.wire.http2.frames import ConnectionFault, ErrorCode
from epp_client.wire.http2.inbox import STREAM_WINDOW
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection
from epp_client.wire.http2.stream import HIGH_WATER
from epp_client.wire.status import OK, Status

from .owners import PATH, Accepting, Joined, Owner, raise_it

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "a:1"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def error_of(output: bytes) -> ErrorCode | None:
    """The code of the GOAWAY in `output`."""
    position = 0
    while position < len(output):
        word, _, _ = frames.HEAD.unpack_from(output, position)
        start = position + 9
        if word & 0xFF == frames.GOAWAY:
            return ErrorCode(frames.word(output, start + 4))
        position = start + (word >> 8)
    return None


def settled_server(accepting: Accepting | None = None) -> ServerConnection:
    server = ServerConnection(accepting or Accepting(), lambda: 0.0, Shell(), raise_it)
    server.receive(frames.PREFACE + frames.settings({}))
    server.take()
    return server


E = TypeVar("E", bound=h2.events.Event)


class Oracle:
    """`h2` as the client of our server, or the server of our client."""

    def __init__(self, ours: ServerConnection | ClientConnection) -> None:
        self.ours = ours
        config = h2.config.H2Configuration(client_side=isinstance(ours, ServerConnection))
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []

    def run(self) -> None:
        while True:
            theirs = self.h2.data_to_send()
            self.ours.receive(theirs)
            output = self.ours.take()
            if not theirs and not output:
                return
            self.events += self.h2.receive_data(output)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


@given(
    sizes=st.lists(st.sampled_from([0, 1, 5, 640, 16_379, 16_380, 70_000]), max_size=5),
    piece=st.sampled_from([1, 3, 9, 100, 16_384, 1 << 20]),
)
@settings(max_examples=25, deadline=None)
def test_messages_arrive_whole_in_order_however_the_bytes_are_split(
    sizes: list[int], piece: int
) -> None:
    both = Joined(echo=True, piece=max(piece, sum(sizes) // 2000))
    call = both.open()
    sent = [bytes([n]) * size for n, size in enumerate(sizes)]
    assert call.stream is not None
    for message in sent:
        call.stream.send(message)
    call.stream.finish()
    both.run()
    assert both.owners[0].messages == sent
    assert both.owners[0].half
    assert call.messages == sent
    assert call.status == OK
    assert not both.client.streams
    assert not both.server.streams


def test_the_metadata_arrives_without_pseudo_headers() -> None:
    both = Joined()
    both.open()
    both.run()
    metadata = both.owners[0].metadata
    assert metadata["path"] == PATH
    assert metadata["x-inference-pool"] == "default/p"
    assert not [name for name in metadata if name.startswith(":")]


def test_a_status_survives_any_text() -> None:
    both = Joined()
    call = both.open()
    both.run()
    stream = both.owners[0].stream
    assert stream is not None
    stream.finish(Status(5, "100 % wrong: Ünïcode\n"))
    both.run()
    assert call.status == Status(5, "100 % wrong: Ünïcode\n")


def test_a_client_that_cancels_is_reported_as_cancelled() -> None:
    both = Joined()
    call = both.open()
    both.run()
    assert call.stream is not None
    call.stream.cancel()
    both.run()
    status = both.owners[0].status
    assert status is not None
    assert status.code == 1
    assert call.status is None


def test_a_paused_reader_holds_one_window_and_holds_up_nobody_else() -> None:
    both = Joined()
    slow, quick = both.open(), both.open()
    both.run()
    reader = both.owners[0].stream
    assert reader is not None
    assert slow.stream is not None
    assert quick.stream is not None
    reader.pause_reading()
    for _ in range(100):
        slow.stream.send(bytes(10_000))
    both.run()
    assert both.owners[0].messages == []
    assert slow.pauses == 1
    waiting = both.client.streams[1].queued
    assert waiting >= 1_000_000 - STREAM_WINDOW
    quick.stream.send(bytes(1_000_000))
    both.run()
    assert len(both.owners[1].messages) == 1
    reader.resume_reading()
    slow.stream.finish()
    both.run()
    assert len(both.owners[0].messages) == 100
    assert both.owners[0].half
    assert slow.resumes == 1


def test_the_end_of_a_call_waits_for_a_paused_owner() -> None:
    both = Joined(echo=True)
    call = both.open()
    assert call.stream is not None
    call.stream.pause_reading()
    call.stream.send(b"x")
    call.stream.finish()
    both.run()
    assert (call.messages, call.status) == ([], None)
    call.stream.resume_reading()
    assert (call.messages, call.status) == ([b"x"], OK)


def reset(both: Joined) -> None:
    both.client.receive(frames.rst_stream(1, ErrorCode.NO_ERROR))


def lose(both: Joined) -> None:
    both.client.lost("the peer has gone")


@pytest.mark.parametrize("part", [reset, lose])
def test_a_whole_answer_outlives_its_stream_while_its_owner_is_paused(
    part: Callable[[Joined], None],
) -> None:
    both = Joined()
    call = both.open()
    both.run()
    assert call.stream is not None
    call.stream.pause_reading()
    answering = both.owners[0].stream
    assert answering is not None
    answering.send(b"x")
    answering.send(b"y")
    answering.finish()
    trailers = both.server.take()
    both.client.receive(trailers[: trailers.rindex(frames.rst_stream(1, ErrorCode.NO_ERROR))])
    assert (call.messages, call.status) == ([], None)
    part(both)
    assert (call.messages, call.status) == ([], None)
    call.stream.send(b"too late")
    call.stream.resume_reading()
    assert (call.messages, call.status) == ([b"x", b"y"], OK)
    assert (both.client.held, both.client.streams) == (0, {})


def test_backlogs_wait_while_the_socket_is_full() -> None:
    both = Joined()
    call = both.open()
    both.run()
    both.client.flowing = False
    assert call.stream is not None
    call.stream.send(bytes(HIGH_WATER + 1))
    assert both.client.take() == b""
    assert call.pauses == 1
    both.client.flowing = True
    both.run()
    assert len(both.owners[0].messages[0]) == HIGH_WATER + 1
    assert call.resumes == 1


def test_backlogs_share_the_connection_window_fairly() -> None:
    both = Joined()
    calls = [both.open() for _ in range(4)]
    both.run()
    both.client.send_window = 0
    for call in calls:
        assert call.stream is not None
        call.stream.send(bytes(60_000))
    for _ in range(4):
        both.client.receive(frames.window_update(0, 10_000))
    left = {stream.queued for stream in both.client.streams.values()}
    assert left == {50_005}


def test_an_owner_that_raises_loses_its_stream_and_no_other() -> None:
    accepting = Accepting(echo=True)
    reported: list[Exception] = []
    both = Joined()
    both.server = ServerConnection(accepting, lambda: 0.0, Shell(), reported.append)
    both.client = ClientConnection("http", "a:1", lambda: 0.0, Shell(), raise_it)
    both.run()
    bad, good = both.open(), both.open()
    both.run()

    def fail() -> None:
        accepting.owners[0].on_change = lambda: None
        raise RuntimeError("a bug")

    accepting.owners[0].on_change = fail
    for call in (bad, good):
        assert call.stream is not None
        call.stream.send(b"x")
        call.stream.finish()
    both.run()
    assert [str(error) for error in reported] == ["a bug"]
    told = accepting.owners[0].status
    assert told is not None, "it has to let go of what it holds"
    assert told.code == 13
    assert bad.status is not None
    assert bad.status.code == 13
    assert good.status == OK


def test_draining_serves_what_was_on_its_way_and_then_closes() -> None:
    both = Joined(echo=True)
    first = both.open()
    both.run()
    both.server.drain()
    # on its way before the GOAWAY has come
    late = both.open()
    both.run()
    assert not both.client.usable
    assert not both.server.closed
    for call in (first, late):
        assert call.stream is not None
        call.stream.send(b"x")
        call.stream.finish()
    both.run()
    assert (first.status, late.status) == (OK, OK)
    assert both.server.closed


def test_a_goaway_ends_the_calls_that_the_server_never_saw() -> None:
    both = Joined()
    served, lost = both.open(), both.open()
    both.client.receive(frames.goaway(1, ErrorCode.NO_ERROR, "bye"))
    assert served.status is None
    assert lost.status is not None
    assert lost.status.code == 14
    assert "bye" in lost.status.message


def test_a_client_respects_max_concurrent_streams() -> None:
    both = Joined()
    both.client.receive(frames.settings({frames.MAX_CONCURRENT_STREAMS: 2}))
    calls = [both.open(), both.open()]
    assert not both.client.usable
    assert calls[0].stream is not None
    calls[0].stream.cancel()
    assert both.client.usable


def test_repeated_header_blocks_are_decoded_once() -> None:
    both = Joined(echo=True)
    reader = both.server._headers
    both.open()
    both.run()
    both.open()
    both.run()
    decoder, reader._decoder = reader._decoder, None  # type: ignore[assignment]
    assert decoder is not None
    both.open()
    both.run()
    assert len(both.owners) == 3


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=150, deadline=None)
def test_garbage_ends_in_goaway_or_silence(data: bytes, framed: bool) -> None:
    server = settled_server()
    if framed:
        data = b"".join(
            frames.frame(piece[0] % 10, piece[1], piece[2] % 4, piece[3:])
            for piece in (data[n : n + 20] for n in range(0, len(data) - 3, 20))
            if len(piece) > 3
        )
    server.receive(data)
    output = server.take()
    assert server.closed == (error_of(output) is not None)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_garbage_from_a_server_ends_calls_and_raises_nothing(data: bytes) -> None:
    both = Joined()
    call = both.open()
    both.client.take()
    both.client.receive(data)
    assert not both.client.closed or call.status is not None


_encoder = h2.connection.H2Connection().encoder
_encoder.header_table_size = 0
BLOCK = _encoder.encode(HEADERS)

REPEATED = {
    "rapid reset": lambda n: (
        frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * n + 1, BLOCK)
        + frames.rst_stream(2 * n + 1, ErrorCode.CANCEL)
    ),
    "ping": lambda n: frames.frame(frames.PING, 0, 0, bytes(8)),
    "settings": lambda n: frames.settings({}),
    "window updates": lambda n: frames.window_update(0, 1),
    "priority": lambda n: frames.frame(frames.PRIORITY, 0, 1, bytes(5)),
    "unknown": lambda n: frames.frame(0x77, 0, 0),
}


@pytest.mark.parametrize("attack", REPEATED)
def test_floods_are_answered_with_enhance_your_calm(attack: str) -> None:
    server = settled_server()
    for n in range(BURST + 2):
        server.receive(REPEATED[attack](n))
        if server.closed:
            break
    assert error_of(server.take()) is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("kind", [frames.DATA, frames.CONTINUATION])
def test_empty_frames_are_a_flood_too(kind: int) -> None:
    server = settled_server()
    flags = frames.END_HEADERS if kind == frames.DATA else 0
    server.receive(frames.frame(frames.HEADERS, flags, 1, BLOCK))
    server.receive(frames.frame(kind, 0, 1) * (BURST + 2))
    assert error_of(server.take()) is ErrorCode.ENHANCE_YOUR_CALM


def test_calls_that_are_cancelled_after_a_message_are_no_flood() -> None:
    both = Joined()
    for _ in range(3 * BURST):
        call = both.open()
        assert call.stream is not None
        call.stream.send(b"x")
        call.stream.cancel()
        both.run()
    assert not both.server.closed


def test_calls_that_are_reset_behind_their_end_are_no_flood() -> None:
    # So Envoy ends nearly every ext_proc stream.
    accepting = Accepting()
    server = settled_server(accepting)
    for number in range(3 * BURST):
        stream_id = 2 * number + 1
        server.receive(
            frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, BLOCK)
            + frames.frame(frames.DATA, 0, stream_id, bytes((0, 0, 0, 0, 1, 0)))
            + frames.frame(frames.DATA, frames.END_STREAM, stream_id)
            + frames.rst_stream(stream_id, ErrorCode.NO_ERROR)
        )
        server.take()
    assert not server.closed
    assert not server.streams


def test_time_forgives_nuisances() -> None:
    now = 0.0
    calm = Calm(lambda: now)
    for _ in range(BURST):
        calm.spend("pings")
    with pytest.raises(ConnectionFault):
        calm.spend("pings")
    now = 10.0
    for _ in range(int(10 * RATE)):
        calm.spend("pings")


def test_a_header_block_without_end_is_bounded() -> None:
    server = settled_server()
    server.receive(frames.frame(frames.HEADERS, 0, 1, BLOCK))
    server.receive(frames.frame(frames.CONTINUATION, 0, 1, bytes(16_000)) * 5)
    assert error_of(server.take()) is ErrorCode.ENHANCE_YOUR_CALM


def test_more_than_the_window_is_a_fault_of_the_stream() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, BLOCK))
    owner = accepting.owners[0]
    assert owner.stream is not None
    owner.stream.pause_reading()
    server.receive(frames.frame(frames.DATA, 0, 1, bytes(16_000)) * 17)
    assert owner.status is not None
    assert not server.closed


def test_h2_as_a_client_agrees_with_our_server() -> None:
    accepting = Accepting(echo=True)
    oracle = Oracle(ServerConnection(accepting, lambda: 0.0, Shell(), raise_it))
    for stream_id in (1, 3, 5):
        oracle.h2.send_headers(stream_id, [*HEADERS, ("x-number", str(stream_id))])
        oracle.run()
        oracle.h2.send_data(stream_id, b"\0\0\0\0\3abc", end_stream=True, pad_length=7)
        oracle.run()
    assert [owner.messages for owner in accepting.owners] == [[b"abc"]] * 3
    assert [owner.metadata["x-number"] for owner in accepting.owners] == ["1", "3", "5"]
    assert [event.data for event in oracle.of(h2.events.DataReceived)] == [b"\0\0\0\0\3abc"] * 3
    trailers = oracle.of(h2.events.TrailersReceived)
    assert [dict(event.headers)[b"grpc-status"] for event in trailers] == [b"0"] * 3


def test_h2_as_a_client_with_small_windows_gets_everything() -> None:
    accepting = Accepting()
    oracle = Oracle(ServerConnection(accepting, lambda: 0.0, Shell(), raise_it))
    oracle.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    oracle.h2.send_headers(1, HEADERS, end_stream=True)
    oracle.run()
    stream = accepting.owners[0].stream
    assert stream is not None
    stream.send(bytes(5000))
    stream.finish()
    got = 0
    for _ in range(20):
        oracle.run()
        for event in oracle.of(h2.events.DataReceived):
            got += len(event.data)
            oracle.h2.acknowledge_received_data(event.flow_controlled_length, 1)
        if oracle.of(h2.events.StreamEnded):
            break
        oracle.events.clear()
    assert got == 5005


def test_h2_as_a_server_agrees_with_our_client() -> None:
    client = ClientConnection("http", "a:1", lambda: 0.0, Shell(), raise_it)
    oracle = Oracle(client)
    oracle.run()
    call = Owner()
    stream = client.open(PATH, {"k": "v"}, call)
    stream.send(b"abc")
    oracle.run()
    received = oracle.of(h2.events.RequestReceived)[0]
    assert dict(received.headers)[b"k"] == b"v"
    oracle.h2.send_headers(1, [(":status", "200"), ("content-type", "application/grpc+proto")])
    oracle.h2.send_data(1, b"\0\0\0\0\1z")
    oracle.h2.send_headers(1, [("grpc-status", "3"), ("grpc-message", "no%21")], end_stream=True)
    oracle.run()
    assert (call.messages, call.status) == ([b"z"], Status(3, "no!"))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([(":status", "503")], 14),
        ([(":status", "404"), ("content-type", "text/html")], 12),
        ([(":status", "200"), ("content-type", "text/html")], 2),
        ([(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "8")], 8),
        ([(":status", "200"), ("content-type", "application/grpc")], 2),
    ],
)
def test_what_a_client_makes_of_answers_without_trailers(
    headers: list[tuple[str, str]], code: int
) -> None:
    client = ClientConnection("http", "a:1", lambda: 0.0, Shell(), raise_it)
    oracle = Oracle(client)
    oracle.run()
    call = Owner()
    client.open(PATH, {}, call)
    oracle.run()
    oracle.h2.send_headers(1, headers, end_stream=True)
    oracle.run()
    assert call.status is not None
    assert call.status.code == code
    assert not client.streams
