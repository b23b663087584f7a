"""Rules of HTTP/2 and gRPC one by one, spoken in bytes: what docs/wire.md names and no other test shows."""

from typing import Any

import h2.events
import hpack
import pytest

from epp_client.wire.http2 import frames
from epp_client.wire.http2.frames import DEFAULT_FRAME, ErrorCode
from epp_client.wire.http2.inbox import STREAM_WINDOW
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection
from epp_client.wire.status import OK, Status

from .owners import PATH, Accepting, Owner, raise_it
from .raw import (
    BLOCK,
    HEADERS,
    block,
    data,
    error_of,
    message,
    request,
    settled_client,
    settled_server,
    split,
)
from .test_connection import Oracle

RESPONSE = block([(":status", "200"), ("content-type", "application/grpc")])
TRAILERS = block([("grpc-status", "0")])


def answer(stream_id: int, piece: bytes, *, ended: bool = False) -> bytes:
    flags = frames.END_HEADERS | (frames.END_STREAM if ended else 0)
    return frames.frame(frames.HEADERS, flags, stream_id, piece)


def test_settings_are_acknowledged_each_and_in_order() -> None:
    server = settled_server()
    server.receive(frames.settings({frames.MAX_FRAME_SIZE: 20_000}) + frames.settings({}))
    acks = [f for f in split(server.take()) if f.kind == frames.SETTINGS]
    assert [(f.flags, f.payload) for f in acks] == [(frames.ACK, b"")] * 2


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        (frames.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
        (frames.INITIAL_WINDOW_SIZE, 1 << 31, ErrorCode.FLOW_CONTROL_ERROR),
        (frames.MAX_FRAME_SIZE, 16_383, ErrorCode.PROTOCOL_ERROR),
        (frames.MAX_FRAME_SIZE, 1 << 24, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_settings_out_of_bounds(name: int, value: int, code: ErrorCode) -> None:
    server = settled_server()
    server.receive(frames.settings({name: value}))
    assert error_of(server.take()) is code


def test_a_client_that_goes_on_with_its_dynamic_table_is_understood() -> None:
    """We say HEADER_TABLE_SIZE 0 first; until a peer has complied, and even if it never does."""
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(frames.frame(frames.SETTINGS, frames.ACK, 0))
    encoder = hpack.Encoder()
    sizes = []
    for n in range(3):
        piece = encoder.encode([*HEADERS, ("x-number", "same")])
        sizes.append(len(piece))
        server.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * n + 1, piece))
    assert sizes[2] < sizes[0]
    encoder.header_table_size = 0
    for n in (3, 4):
        piece = encoder.encode([*HEADERS, ("x-number", "same")])
        server.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * n + 1, piece))
    assert [owner.metadata["x-number"] for owner in accepting.owners] == ["same"] * 5
    assert server._headers._stateless


def test_a_table_larger_than_allowed_is_a_compression_error() -> None:
    server = settled_server()
    server.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x3f\xe2\x1f" + BLOCK))
    assert error_of(server.take()) is ErrorCode.COMPRESSION_ERROR


def test_our_own_blocks_begin_by_giving_up_the_table_and_use_none() -> None:
    client = settled_client()
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    for _ in range(2):
        client.open(PATH, {"k": "v"}, Owner())
        (sent,) = split(client.take())
        found: list[Any] = [tuple(field) for field in decoder.decode(sent.payload)]
        assert ("k", "v") in found
    assert decoder.header_table_size == 0


@pytest.mark.parametrize("cut", [0, 1, len(BLOCK) // 2, len(BLOCK)])
def test_a_block_may_be_cut_anywhere(cut: int) -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(
        frames.frame(frames.HEADERS, 0, 1, BLOCK[:cut])
        + frames.frame(frames.CONTINUATION, 0, 1)
        + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, BLOCK[cut:])
    )
    assert accepting.owners[0].metadata["path"] == PATH


def test_a_block_that_is_interrupted_ends_the_connection() -> None:
    for other in (frames.frame(frames.PING, 0, 0, bytes(8)), frames.frame(9, 4, 3, b"")):
        server = settled_server()
        server.receive(frames.frame(frames.HEADERS, 0, 1, BLOCK) + other)
        assert error_of(server.take()) is ErrorCode.PROTOCOL_ERROR


def test_our_long_blocks_are_continued_within_the_peers_frame_size() -> None:
    accepting = Accepting()
    oracle = Oracle(ServerConnection(accepting, lambda: 0.0, Shell(), raise_it))
    oracle.h2.decoder.max_header_list_size = 1 << 20
    oracle.h2.local_settings.max_header_list_size = 1 << 20
    oracle.h2.send_headers(1, HEADERS, end_stream=True)
    oracle.run()
    stream = accepting.owners[0].stream
    assert stream is not None
    stream.finish(Status(13, "x" * 40_000))
    output = oracle.ours.take()
    assert [f.kind for f in split(output)] == [frames.HEADERS] + [frames.CONTINUATION] * 2
    assert max(len(f.payload) for f in split(output)) == DEFAULT_FRAME
    (trailers, *_) = oracle.h2.receive_data(output)
    assert isinstance(trailers, h2.events.TrailersReceived | h2.events.ResponseReceived)
    assert dict(trailers.headers)[b"grpc-message"] == b"x" * 40_000


def test_padding_is_cut_off_and_counts_against_the_windows() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    padded = frames.PADDED | frames.END_HEADERS
    server.receive(frames.frame(frames.HEADERS, padded, 1, b"\3" + BLOCK + bytes(3)))
    piece = b"\xff" + message(2) + bytes(255)
    given = 0
    for _ in range(STREAM_WINDOW // len(piece) * 3):
        server.receive(frames.frame(frames.DATA, frames.PADDED, 1, piece))
        for frame in split(server.take()):
            assert (frame.kind, frame.stream_id) == (frames.WINDOW_UPDATE, 1)
            given += frames.word(frame.payload)
    assert not server.closed
    assert given >= STREAM_WINDOW
    assert accepting.owners[0].messages[0] == bytes(2)


@pytest.mark.parametrize("kind", [frames.DATA, frames.HEADERS])
def test_more_padding_than_frame_ends_the_connection(kind: int) -> None:
    server = settled_server()
    server.receive(request(1) if kind == frames.DATA else b"")
    server.receive(frames.frame(kind, frames.PADDED | frames.END_HEADERS, 1, b"\4abc"))
    assert error_of(server.take()) is ErrorCode.PROTOCOL_ERROR


def test_priorities_are_read_and_ignored() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    flags = frames.PRIORITIZED | frames.END_HEADERS
    server.receive(frames.frame(frames.HEADERS, flags, 1, b"\x80\0\0\7\xff" + BLOCK))
    server.receive(frames.frame(frames.PRIORITY, 0, 9, b"\0\0\0\1\1"))
    assert accepting.owners[0].metadata["path"] == PATH
    assert not server.closed
    assert server.take() == b""


def test_frames_above_our_limit_are_refused_before_they_have_come() -> None:
    server = settled_server()
    server.receive(frames.HEAD.pack((DEFAULT_FRAME + 1) << 8 | frames.DATA, 0, 1))
    assert error_of(server.take()) is ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize("limit", [DEFAULT_FRAME, 20_000, 1 << 20])
def test_our_frames_stay_within_the_peers_limit(limit: int) -> None:
    accepting = Accepting()
    wide = {frames.MAX_FRAME_SIZE: limit, frames.INITIAL_WINDOW_SIZE: 1 << 30}
    server = settled_server(accepting, wide)
    server.receive(request(1) + frames.window_update(0, 1 << 30))
    stream = accepting.owners[0].stream
    assert stream is not None
    stream.send(bytes(limit - 5))
    stream.send(bytes(limit - 4))
    server.pump()
    sizes = [len(f.payload) for f in split(server.take()) if f.kind == frames.DATA]
    assert sizes == [limit, limit, 1]


def test_no_frame_of_ours_is_larger_than_a_mebibyte() -> None:
    accepting = Accepting()
    wide = {frames.MAX_FRAME_SIZE: frames.LARGEST_FRAME, frames.INITIAL_WINDOW_SIZE: 1 << 30}
    server = settled_server(accepting, wide)
    server.receive(request(1) + frames.window_update(0, 1 << 30))
    stream = accepting.owners[0].stream
    assert stream is not None
    stream.send(bytes(12 << 20))
    data = b""
    while written := server.take():
        pieces = [f.payload for f in split(written) if f.kind == frames.DATA]
        assert max(map(len, pieces), default=0) <= 1 << 20
        data += b"".join(pieces)
        server.pump()
    assert data == b"\0" + (12 << 20).to_bytes(4) + bytes(12 << 20)


def test_streams_beyond_the_offered_number_are_refused() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    offered = 16_384
    for n in range(offered):
        server.receive(request(2 * n + 1))
    server.receive(request(2 * offered + 1))
    (refusal,) = split(server.take())
    assert (refusal.kind, refusal.stream_id) == (frames.RST_STREAM, 2 * offered + 1)
    assert frames.word(refusal.payload) == ErrorCode.REFUSED_STREAM
    assert len(accepting.owners) == offered
    server.receive(frames.rst_stream(1, ErrorCode.CANCEL) + request(2 * offered + 3))
    assert len(accepting.owners) == offered + 1


def test_a_ping_is_answered_with_its_own_bytes() -> None:
    server = settled_server()
    server.receive(frames.frame(frames.PING, 0, 0, b"12345678"))
    assert split(server.take()) == [(frames.PING, frames.ACK, 0, b"12345678")]


def test_half_closing_ends_one_direction() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(request(1) + data(1, message(3), ended=True))
    owner = accepting.owners[0]
    assert (owner.half, owner.status) == (True, None)
    assert owner.stream is not None
    for _ in range(3):
        owner.stream.send(b"still here")
    owner.stream.finish()
    first, body, last = split(server.take())
    assert (first.kind, first.flags) == (frames.HEADERS, frames.END_HEADERS)
    assert (body.kind, body.flags, body.payload.count(b"still here")) == (frames.DATA, 0, 3)
    ended = frames.END_HEADERS | frames.END_STREAM
    assert (last.kind, last.flags) == (frames.HEADERS, ended)
    assert not server.streams


def test_a_call_ends_within_a_message() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(request(1) + data(1, message(3)[:-1], ended=True))
    owner = accepting.owners[0]
    assert owner.messages == []
    assert owner.status is not None
    assert owner.status.code == 13


def test_an_answer_that_ends_before_our_half_is_complete_and_resets_ours() -> None:
    client, call = settled_client(), Owner()
    client.open(PATH, {}, call)
    client.take()
    client.receive(answer(1, RESPONSE) + data(1, message(1)) + answer(1, TRAILERS, ended=True))
    assert (call.messages, call.status) == ([b"\0"], OK)
    (reset,) = split(client.take())
    assert frames.word(reset.payload) == ErrorCode.NO_ERROR
    assert not client.streams


def test_interim_responses_are_passed_over() -> None:
    client, call = settled_client(), Owner()
    client.open(PATH, {}, call)
    hints = answer(1, block([(":status", "103"), ("link", "</x>")]))
    client.receive(hints + hints + answer(1, RESPONSE) + answer(1, TRAILERS, ended=True))
    assert call.status == OK


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "x")], 2),
        ([(":status", "502"), ("content-type", "text/html")], 14),
        ([(":status", "401"), ("content-type", "application/grpc"), ("grpc-status", "16")], 16),
    ],
)
def test_answers_of_trailers_only(headers: list[tuple[str, str]], code: int) -> None:
    client, call = settled_client(), Owner()
    client.open(PATH, {}, call)
    client.receive(answer(1, block(headers), ended=True))
    assert call.status is not None
    assert call.status.code == code


@pytest.mark.parametrize(
    "sequence",
    [
        pytest.param(data(1, message(1)), id="DATA before HEADERS"),
        pytest.param(answer(1, TRAILERS), id="no :status"),
        pytest.param(answer(1, RESPONSE) + answer(1, RESPONSE), id="HEADERS twice"),
        pytest.param(answer(1, RESPONSE) + answer(1, TRAILERS), id="trailers without END_STREAM"),
        pytest.param(answer(1, block([("connection", "close")])), id="HTTP/1.1 fields"),
        pytest.param(answer(1, RESPONSE) + data(1, b"\1\0\0\0\1x"), id="compressed"),
        pytest.param(answer(1, RESPONSE) + data(1, b"\0\xff\xff\xff\xff"), id="monstrous"),
        pytest.param(answer(1, RESPONSE) + data(1, message(9)[:9], ended=True), id="cut"),
    ],
)
def test_answers_that_break_the_rules_end_their_call_and_no_other(sequence: bytes) -> None:
    client, call, other = settled_client(), Owner(), Owner()
    client.open(PATH, {}, call)
    client.open(PATH, {}, other)
    client.take()
    client.receive(sequence)
    assert call.status is not None
    assert call.status.code in (2, 8, 12, 13)
    assert [f.kind for f in split(client.take())] == [frames.RST_STREAM]
    client.receive(answer(3, RESPONSE) + data(3, message(0)) + answer(3, TRAILERS, ended=True))
    assert (other.messages, other.status) == ([b""], OK)


@pytest.mark.parametrize("size", [0, 1, DEFAULT_FRAME - 5, 5_000_000, 20_000_000])
def test_messages_are_not_bound_to_4_mib(size: int) -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    server.receive(request(1))
    whole = message(size)
    for start in range(0, len(whole), DEFAULT_FRAME):
        server.receive(frames.frame(frames.DATA, 0, 1, whole[start : start + DEFAULT_FRAME]))
    assert [len(m) for m in accepting.owners[0].messages] == [size]


def test_what_is_not_grpc_is_told_so() -> None:
    server = settled_server()
    other = [*HEADERS[:-1], ("content-type", "application/json")]
    server.receive(frames.frame(frames.HEADERS, 5, 1, block(other)))
    headers, body = split(server.take())
    found: list[Any] = [tuple(field) for field in hpack.Decoder().decode(headers.payload)]
    assert (":status", "415") in found
    assert b"application/grpc" in body.payload
    assert not server.streams


def test_header_lists_are_bounded_by_what_they_become() -> None:
    """A block of a few bytes that would become gigabytes (CVE-2016-6581)."""
    server = settled_server()
    bomb = b"\x40" + b"\1a" + b"\x7f\xe1\x1e" + b"b" * 4000 + b"\xbe" * 8000
    server.receive(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, bomb))
    assert error_of(server.take()) is ErrorCode.COMPRESSION_ERROR
