"""When what one connection has to say because of another one's input leaves its socket."""

import asyncio
from typing import Any

import pytest

from epp_client.wire.http2.frames import (
    ACK,
    END_HEADERS,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
    settings,
)
from epp_client.wire.http2.headers import RESPONSE
from epp_client.wire.protocol import WORK, ClientProtocol, ServerProtocol
from epp_client.wire.status import OK
from epp_client.wire.transport import StreamEvents

from .owners import PATH, Owner
from .raw import data, request

ASKED = request(1) + data(1, b"\0\0\0\0\x05hello")
ANSWER = frame(HEADERS, END_HEADERS, 1, RESPONSE)
GREETING = settings({}) + frame(SETTINGS, ACK, 0)


class Socket(asyncio.Transport):
    """A transport that keeps what is written to it, or refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.broken = False
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def write(self, data: Any) -> None:
        if self.broken:
            raise RuntimeError("this socket is broken")
        self.written.append(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""

    def abort(self) -> None:
        """Nothing is open."""

    def get_write_buffer_size(self) -> int:
        return 0


def picker() -> tuple[ClientProtocol, Socket]:
    """A connection to a picker that has greeted."""
    protocol, socket = ClientProtocol("http", "picker", 3600.0, 3600.0), Socket()
    protocol.connection_made(socket)
    protocol.data_received(GREETING)
    socket.written.clear()
    return protocol, socket


def envoy(owner: StreamEvents) -> ServerProtocol:
    """A connection of Envoy's that has greeted."""
    protocol = ServerProtocol(lambda *_: owner)
    protocol.connection_made(Socket())
    protocol.data_received(PREFACE + GREETING)
    return protocol


class Forwarder(Owner):
    """Sends each message on to `calls`, twice."""

    def __init__(self, protocols: list[ClientProtocol]) -> None:
        super().__init__()
        self.calls = [protocol.connection.open(PATH, {}, Owner()) for protocol in protocols]

    def message_received(self, message: bytes) -> None:
        for call in self.calls:
            call.send(message)
            call.send(message)


async def test_what_a_read_has_to_say_elsewhere_leaves_with_it_in_one_write() -> None:
    protocol, socket = picker()
    server = envoy(Forwarder([protocol]))
    # the call's headers
    await asyncio.sleep(0)
    socket.written.clear()

    server.data_received(ASKED)

    assert len(socket.written) == 1
    assert socket.written[0].count(b"hello") == 2


async def test_a_socket_that_fails_does_not_keep_another_ones_output() -> None:
    (first, broken), (second, socket) = picker(), picker()
    server = envoy(Forwarder([second, first]))
    await asyncio.sleep(0)
    socket.written.clear()
    broken.broken = True

    with pytest.raises(RuntimeError):
        server.data_received(ASKED)
    server.data_received(b"")

    assert b"".join(socket.written).count(b"hello") == 2


async def test_what_is_said_outside_of_a_read_leaves_in_the_loops_next_turn() -> None:
    protocol, socket = picker()
    call = protocol.connection.open(PATH, {}, Owner())
    call.send(b"hello")
    call.finish(OK)
    assert not socket.written

    await asyncio.sleep(0)

    assert len(socket.written) == 1


async def test_an_owner_that_raises_holds_no_output_back() -> None:
    class Raising(Forwarder):
        def message_received(self, message: bytes) -> None:
            super().message_received(message)
            raise ValueError("on purpose")

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
    protocol, socket = picker()
    server = envoy(Raising([protocol]))
    await asyncio.sleep(0)
    socket.written.clear()

    server.data_received(ASKED)

    assert reported
    assert socket.written[0].count(b"hello") == 2


async def test_a_read_of_ten_thousand_messages_leaves_turns_for_others_and_loses_nothing() -> None:
    """Nothing is read meanwhile, so that what waits is one read at most."""
    protocol, socket = picker()
    owner = Owner()
    protocol.connection.open(PATH, {}, owner)
    await asyncio.sleep(0)
    many = b"".join(data(1, b"\0\0\0\0\x02%02d" % (n % 100)) for n in range(10_000))
    protocol.data_received(ANSWER + many)
    assert len(owner.messages) < WORK
    assert socket.paused
    turns = 0
    while len(owner.messages) < 10_000:
        before = len(owner.messages)
        await asyncio.sleep(0)
        assert len(owner.messages) - before <= WORK
        turns += 1
    assert turns >= 10_000 // WORK
    assert not socket.paused
    assert owner.messages == [b"%02d" % (n % 100) for n in range(10_000)]
    owner.messages.clear()
    protocol.data_received(data(1, b"\0\0\0\0\x02hi"))
    assert owner.messages == [b"hi"]


async def test_messages_that_share_frames_share_turns_as_well() -> None:
    protocol, socket = picker()
    owner = Owner()
    protocol.connection.open(PATH, {}, owner)
    await asyncio.sleep(0)
    full = data(1, b"\0\0\0\0\0" * 1000)
    protocol.data_received(ANSWER + full * 8)
    assert len(owner.messages) == 1000
    assert socket.paused
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    assert len(owner.messages) == 1000, "the connection is gone"
