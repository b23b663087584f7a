"""Messages that a stream sends in one turn share a DATA frame; `h2` reads it."""

from collections.abc import Sequence

import h2.events
import pytest

from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection
from epp_client.wire.status import OK

from .owners import Accepting, raise_it
from .test_connection import Oracle

LARGEST = 16_384 - 5


def message(payload: bytes) -> bytes:
    return b"\0" + len(payload).to_bytes(4) + payload


def opened(accepting: Accepting, *streams: int) -> Oracle:
    """A client that has opened these streams."""
    oracle = Oracle(ServerConnection(accepting, lambda: 0.0, Shell(), raise_it))
    oracle.run()
    for number in streams:
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", "/test.Echo/Talk"),
            (":authority", "a"), ("content-type", "application/grpc"), ("te", "trailers"),
        ]  # fmt: skip
        oracle.h2.send_headers(number, fields)
    oracle.run()
    oracle.events.clear()
    return oracle


@pytest.mark.parametrize(
    ("sizes", "frames"),
    [
        ([3], [8]),
        ([3, 0, 640], [8 + 5 + 645]),
        ([LARGEST - 5, 0], [16_384]),
        ([LARGEST - 4, 0], [16_380, 5]),
        ([LARGEST], [16_384]),
        ([LARGEST, 1, 2], [16_384, 6 + 7]),
        ([100, LARGEST, 2, 3], [105, 16_384, 7 + 8]),
    ],
)
def test_messages_share_a_frame_of_at_most_16_kib(
    sizes: Sequence[int], frames: Sequence[int]
) -> None:
    accepting = Accepting()
    oracle = opened(accepting, 1)
    stream = accepting.owners[0].stream
    assert stream is not None
    payloads = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    for payload in payloads:
        stream.send(payload)
    oracle.run()
    received = oracle.of(h2.events.DataReceived)
    assert [len(event.data or b"") for event in received] == frames
    assert b"".join(event.data or b"" for event in received) == b"".join(map(message, payloads))
    assert [event.flow_controlled_length for event in received] == frames


def test_what_comes_in_between_ends_a_frame() -> None:
    accepting = Accepting()
    oracle = opened(accepting, 1, 3)
    one, other = (owner.stream for owner in accepting.owners)
    assert one is not None
    assert other is not None
    one.send(b"a")
    one.send(b"b")
    other.send(b"c")
    one.send(b"d")
    one.finish(OK)
    other.send(b"e")
    other.send(b"f")
    oracle.run()
    received = [(e.stream_id, e.data) for e in oracle.of(h2.events.DataReceived)]
    assert received == [
        (1, message(b"a") + message(b"b")),
        (3, message(b"c")),
        (1, message(b"d")),
        (3, message(b"e") + message(b"f")),
    ]


def test_the_next_turn_has_a_frame_of_its_own() -> None:
    accepting = Accepting()
    oracle = opened(accepting, 1)
    stream = accepting.owners[0].stream
    assert stream is not None
    for payload in (b"a", b"b"):
        stream.send(payload)
        oracle.run()
    received = oracle.of(h2.events.DataReceived)
    assert [event.data for event in received] == [message(b"a"), message(b"b")]
