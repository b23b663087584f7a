"""`Stream.followed`: a promise that the next message of the stream is here and comes next."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.wire.http2.frames import DATA, END_STREAM, PADDED, frame

from .owners import Accepting, Joined, Owner
from .test_connection import settled_server


@dataclass
class Listener(Owner):
    """Writes down for each message what was promised, and in which read it came."""

    reads: int = 0
    promises: list[bool] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def message_received(self, message: bytes) -> None:
        super().message_received(message)
        assert self.stream is not None
        self.promises.append(self.stream.followed())
        self.places.append(self.reads)


def message(payload: bytes, stream_id: int = 1, flags: int = 0, *, compressed: int = 0) -> bytes:
    """A DATA frame with one message."""
    data = bytes((compressed,)) + len(payload).to_bytes(4) + payload
    return frame(DATA, flags, stream_id, data)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 5, 640, 16_379, 16_380, 40_000]), max_size=5),
    piece=st.sampled_from([1, 9, 100, 16_384, 1 << 20]),
)
@settings(max_examples=50, deadline=None)
def test_what_is_promised_comes_in_the_same_read(sizes: list[int], piece: int) -> None:
    both = Joined()
    call = both.open()
    both.run()
    server, owner = both.server, both.owners[0]
    listener = Listener(stream=owner.stream)
    server.streams[1].events = listener
    assert call.stream is not None
    for number, size in enumerate(sizes):
        call.stream.send(bytes([number]) * size)
    data = both.client.take()
    step = max(piece, len(data) // 500)
    for start in range(0, len(data), step):
        listener.reads += 1
        server.receive(data[start : start + step])
    assert [len(one) for one in listener.messages] == sizes
    assert not any(listener.promises[-1:])
    for number, promised in enumerate(listener.promises[:-1]):
        if promised:
            assert listener.places[number + 1] == listener.places[number]
        elif step > len(data):
            # Larger ones take more than one frame.
            assert sizes[number] > 16_379 or sizes[number + 1] > 16_379


def test_all_messages_of_one_frame_but_the_last_are_followed() -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    client = Joined().client
    client.take()
    client.open("/test.Echo/Talk", {}, Owner())
    server.receive(client.take())
    listener = Listener(stream=accepting.owners[0].stream)
    server.streams[1].events = listener
    three = b"".join(message(text)[9:] for text in (b"one", b"", b"three"))
    server.receive(frame(DATA, 0, 1, three + b"\0\0"))
    assert listener.messages == [b"one", b"", b"three"]
    assert listener.promises == [True, True, False]
    server.receive(frame(DATA, END_STREAM, 1, b"\0\0\4four"))
    assert listener.messages[3:] == [b"four"]
    assert listener.half


@pytest.mark.parametrize(
    ("after", "promised"),
    [
        pytest.param(b"", False, id="nothing"),
        pytest.param(message(b"two"), True, id="a message"),
        pytest.param(message(b"", 1, END_STREAM), True, id="an empty message that ends the stream"),
        pytest.param(message(b"two")[:-1], False, id="a part of a message"),
        pytest.param(message(b"two")[:13], False, id="a part of its length"),
        pytest.param(message(b"two", 3), False, id="a message of another stream"),
        pytest.param(message(b"two", 1, compressed=1), False, id="a compressed message"),
        pytest.param(frame(DATA, 0, 1, b"\0\0\0\0\3tw"), False, id="the start of a message"),
        pytest.param(frame(DATA, 0, 1, b"\0\0\0\0\1two"), True, id="a message and more"),
        pytest.param(message(b"t" * 300)[:290], False, id="a part of a longer message"),
        pytest.param(frame(DATA, 0, 1, b""), False, id="an empty frame"),
        pytest.param(frame(DATA, END_STREAM, 1, b"") + bytes(9), False, id="the end of the stream"),
        pytest.param(frame(DATA, PADDED, 1, b"\0\0\0\0\0\0"), False, id="a padded frame"),
    ],
)
def test_only_a_whole_message_of_the_same_stream_follows(after: bytes, promised: bool) -> None:
    accepting = Accepting()
    server = settled_server(accepting)
    client = Joined().client
    client.take()
    client.open("/test.Echo/Talk", {}, Owner())
    client.open("/test.Echo/Talk", {}, Owner())
    server.receive(client.take())
    listener = Listener(stream=accepting.owners[0].stream)
    server.streams[1].events = listener
    server.receive(message(b"one") + after)
    assert (listener.messages[0], listener.promises[0]) == (b"one", promised)
