"""Peers that mean harm: floods, games with windows and settings, memory that we would have to hold."""

from collections.abc import Callable

import pytest

from epp_client.wire.http2 import frames
from epp_client.wire.http2.calm import BURST
from epp_client.wire.http2.frames import DEFAULT_FRAME, ErrorCode
from epp_client.wire.http2.grpc import MAX_MESSAGE
from epp_client.wire.http2.inbox import CONNECTION_WINDOW, MAX_HELD, STREAM_WINDOW, Tally
from epp_client.wire.http2.stream import MAX_ASSEMBLED, MAX_ASSEMBLED_BY_ALL
from epp_client.wire.status import OK

from .owners import PATH, Accepting, Owner
from .raw import block, data, error_of, message, request, settled_client, settled_server, split


def made_to_reset(n: int) -> bytes:
    """CVE-2025-8671: the client has the server reset what it opens."""
    return request(2 * n + 1) + frames.window_update(2 * n + 1, 0)


def data_after_the_end(n: int) -> bytes:
    return request(2 * n + 1, ended=True) + data(2 * n + 1, b"x")


def empty_data_for_nobody(n: int) -> bytes:
    cancelled = request(1) + frames.rst_stream(1, ErrorCode.CANCEL) + data(1, b"x")
    return cancelled if n == 0 else data(1, b"")


def headers_for_nobody(n: int) -> bytes:
    broken = request(1) + frames.window_update(1, 0)
    return broken if n == 0 else request(1)


@pytest.mark.parametrize(
    "attack", [made_to_reset, data_after_the_end, empty_data_for_nobody, headers_for_nobody]
)
def test_floods_that_hide_are_answered_with_enhance_your_calm(
    attack: Callable[[int], bytes],
) -> None:
    server = settled_server()
    for n in range(BURST + 3):
        server.receive(attack(n))
    assert error_of(server.take()) is ErrorCode.ENHANCE_YOUR_CALM


RESPONSE = block([(":status", "200"), ("content-type", "application/grpc")])
HINTS = block([(":status", "103")])


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frames.frame(frames.HEADERS, 4, 1, HINTS), id="interim responses"),
        pytest.param(frames.frame(frames.PING, 0, 0, bytes(8)), id="pings"),
        pytest.param(frames.frame(0x77, 0, 0), id="unknown frames"),
        pytest.param(frames.window_update(1, 1), id="window updates"),
    ],
)
def test_a_picker_that_floods_is_left(flood: bytes) -> None:
    client, call = settled_client(), Owner()
    client.open(PATH, {}, call)
    client.receive(flood * (BURST + 2))
    assert error_of(client.take()) is ErrorCode.ENHANCE_YOUR_CALM
    assert call.status is not None
    assert call.status.code == 14


def test_a_picker_that_talks_into_calls_that_are_over_is_left() -> None:
    for flood in (frames.frame(frames.HEADERS, 4, 1, RESPONSE), data(1, b"")):
        client = settled_client()
        client.open(PATH, {}, Owner()).cancel()
        client.receive(flood * (BURST + 2))
        assert error_of(client.take()) is ErrorCode.ENHANCE_YOUR_CALM


def test_a_window_opened_byte_by_byte_is_a_flood() -> None:
    """CVE-2019-9511: data that is asked for in dribs."""
    accepting = Accepting()
    server = settled_server(accepting, {frames.INITIAL_WINDOW_SIZE: 0})
    server.receive(request(1))
    stream = accepting.owners[0].stream
    assert stream is not None
    stream.send(bytes(100_000))
    for _ in range(BURST + 2):
        server.receive(frames.window_update(1, 1))
    assert error_of(server.take()) is ErrorCode.ENHANCE_YOUR_CALM


def test_streams_without_a_window_are_not_asked_again_and_again() -> None:
    """CVE-2019-9517 and its kin: each update of the connection's window would cost a look at each."""
    accepting = Accepting()
    server = settled_server(accepting, {frames.INITIAL_WINDOW_SIZE: 0})
    for n in range(100):
        server.receive(request(2 * n + 1))
        stream = accepting.owners[n].stream
        assert stream is not None
        stream.send(b"x")
    assert not server.blocked
    server.take()
    server.receive(frames.window_update(199, 100))
    (sent,) = split(server.take())
    assert (sent.kind, sent.stream_id, sent.payload) == (frames.DATA, 199, b"\0\0\0\0\1x")
    server.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    assert len([f for f in split(server.take()) if f.kind == frames.DATA]) == 99


def test_a_frame_full_of_settings_costs_what_one_costs() -> None:
    one = frames.settings({frames.INITIAL_WINDOW_SIZE: 7})[9:]
    other = frames.settings({frames.INITIAL_WINDOW_SIZE: 9})[9:]
    assert frames.read_settings(one * 2000 + other) == {frames.INITIAL_WINDOW_SIZE: 9}


def test_our_last_words_are_short_whatever_was_said() -> None:
    server = settled_server()
    server.receive(frames.frame(frames.HEADERS, 4, 1, b"\x7f" + b"\xff" * 16_000))
    output = server.take()
    assert error_of(output) is ErrorCode.COMPRESSION_ERROR
    assert len(output) < 400


def test_a_block_that_cannot_be_read_is_not_quoted() -> None:
    server = settled_server()
    secret = b"\0\rauthorization\x0dBearer s3cr3t" + b"\x7f" + b"\xff" * 9
    server.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, secret))
    output = server.take()
    assert error_of(output) is ErrorCode.COMPRESSION_ERROR
    assert b"s3cr3t" not in output
    assert b"0x" not in output


def test_paused_calls_together_hold_no_more_than_the_bound_and_lose_nothing() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    # messages that fill their frames: 16 of them are a stream's window
    piece = message(DEFAULT_FRAME - 5)
    calls = (MAX_HELD + 2 * CONNECTION_WINDOW) // STREAM_WINDOW
    window, sent = CONNECTION_WINDOW, 0
    waiting: list[bytes] = []
    for n in range(calls):
        stream_id = 2 * n + 1
        server.receive(request(stream_id))
        stream = accepting.owners[n].stream
        assert stream is not None
        stream.pause_reading()
        waiting += [frames.frame(frames.DATA, 0, stream_id, piece)] * (STREAM_WINDOW // len(piece))
    waiting.reverse()

    def send() -> None:
        nonlocal window, sent
        while waiting and window >= len(piece):
            server.receive(waiting.pop())
            window -= len(piece)
            sent += len(piece)
            for frame in split(server.take()):
                if frame.kind == frames.WINDOW_UPDATE and not frame.stream_id:
                    window += frames.word(frame.payload)

    send()
    assert not server.closed
    assert waiting, "the window was never held back"
    assert MAX_HELD < sent <= MAX_HELD + CONNECTION_WINDOW + len(piece)
    while waiting:
        for owner in accepting.owners:
            assert owner.stream is not None
            owner.stream.resume_reading()
        for frame in split(server.take()):
            if frame.kind == frames.WINDOW_UPDATE and not frame.stream_id:
                window += frames.word(frame.payload)
        send()
    assert {len(owner.messages) for owner in accepting.owners} == {STREAM_WINDOW // len(piece)}
    assert server.held == 0


@pytest.mark.parametrize("end", ["cancelled", "finished", "lost"])
def test_what_was_held_for_a_call_goes_with_it(end: str) -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(request(1))
    owner = accepting.owners[0]
    assert owner.stream is not None
    owner.stream.pause_reading()
    server.receive(data(1, message(10) + message(20) + b"\0\0\0\0\7abc"))
    assert (server.held > 30, server.assembled) == (True, 3)
    match end:
        case "cancelled":
            server.receive(frames.rst_stream(1, ErrorCode.CANCEL))
        case "finished":
            owner.stream.finish(OK)
        case "lost":
            server.lost("gone")
    assert (server.held, server.assembled) == (0, 0)
    owner.stream.resume_reading()
    assert (owner.messages, server.held) == ([], 0)


def test_unfinished_messages_are_bounded_together() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    most = MAX_MESSAGE - 1
    for n in range(MAX_ASSEMBLED // most + 1):
        server.receive(request(2 * n + 1))
        server.receive(data(2 * n + 1, b"\0" + MAX_MESSAGE.to_bytes(4)))
        for _ in range(most // DEFAULT_FRAME):
            server.receive(data(2 * n + 1, bytes(DEFAULT_FRAME)))
            server.take()
    statuses = [owner.status for owner in accepting.owners]
    assert statuses[:-1] == [None] * (len(statuses) - 1)
    assert statuses[-1] is not None
    assert statuses[-1].code == 8
    assert not server.closed
    assert server.assembled <= MAX_ASSEMBLED
    server.lost("enough")
    assert server.assembled == 0


def test_unfinished_messages_on_many_connections_are_bounded_together() -> None:
    tally, size = Tally(), DEFAULT_FRAME
    tally.assembled = others = MAX_ASSEMBLED_BY_ALL - 2 * size
    statuses, servers = [], []
    for _ in range(3):
        accepting = Accepting()
        server = settled_server(accepting)
        server.tally = tally
        server.receive(request(1) + data(1, b"\0" + MAX_MESSAGE.to_bytes(4) + bytes(size)))
        statuses += [owner.status and owner.status.code for owner in accepting.owners]
        servers.append(server)
    assert statuses == [None, None, 8]
    assert tally.assembled == MAX_ASSEMBLED_BY_ALL
    for server in servers:
        server.lost("enough")
    assert tally.assembled == others


def test_a_message_that_ends_where_a_forbidden_one_begins_leaves_nothing_counted() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(request(1) + data(1, b"\0\0\0\0\5abc"))
    assert server.assembled == 3
    server.receive(data(1, b"de" + b"\1\0\0\0\1x"))
    status = accepting.owners[0].status
    assert status is not None
    assert (status.code, server.assembled) == (12, 0)


def test_a_client_that_overdraws_the_connection_window_is_cut_off() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    piece = message(DEFAULT_FRAME - 5)
    n = -1
    for sent in range(0, 2 * MAX_HELD, len(piece)):
        if sent % STREAM_WINDOW == 0:
            n += 1
            server.receive(request(2 * n + 1))
            stream = accepting.owners[n].stream
            assert stream is not None
            stream.pause_reading()
        server.receive(frames.frame(frames.DATA, 0, 2 * n + 1, piece))
        if server.closed:
            break
    assert error_of(server.take()) is ErrorCode.FLOW_CONTROL_ERROR
    assert server.held == 0


def test_a_clients_goaway_names_no_stream_of_its_own() -> None:
    client = settled_client()
    client.open(PATH, {}, Owner())
    client.take()
    client.fail(ErrorCode.NO_ERROR, "bye")
    (goaway,) = split(client.take())
    assert goaway.kind == frames.GOAWAY
    assert frames.word(goaway.payload) == 0
