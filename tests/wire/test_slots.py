"""Servers that limit the streams of a connection: who waits, and who gets another connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from grpc import aio

from epp_client.errors import PeerUnreachable
from epp_client.wire.grpcio import _AnyMethod
from epp_client.wire.http2 import frames
from epp_client.wire.http2.frames import ErrorCode
from epp_client.wire.http2.stream import HIGH_WATER
from epp_client.wire.native import NativeTransport
from epp_client.wire.native_connection import NativeConnection
from epp_client.wire.protocol import ClientProtocol
from epp_client.wire.status import OK

from .owners import PATH, Accepting, Owner
from .test_native import PLAINTEXT, loopback, until

LIMIT = frames.settings({frames.MAX_CONCURRENT_STREAMS: 1})


def opened(connection: NativeConnection) -> Owner:
    call = Owner()
    call.stream = connection.open(PATH, {}, call)
    return call


def say(call: Owner, *messages: bytes) -> None:
    assert call.stream is not None
    for message in messages:
        call.stream.send(message)


async def refused() -> ClientProtocol:
    raise PeerUnreachable("nobody is there any more")


class Limited:
    """A connection whose server has allowed one stream, and what further dialling gives."""

    def __init__(self, connection: NativeConnection, first: ClientProtocol, address: str) -> None:
        self.connection = connection
        self.first = first
        self.address = address
        self.dialled = 0
        self.answer: Callable[[], Awaitable[ClientProtocol]] = refused

    async def dial(self) -> ClientProtocol:
        self.dialled += 1
        return await self.answer()


@pytest.fixture
def accepting() -> Accepting:
    return Accepting(echo=True)


@contextlib.asynccontextmanager
async def limited(accepting: Accepting) -> AsyncIterator[Limited]:
    sock, address = loopback()
    transport = NativeTransport()
    server = await transport.serve_socket(sock, accepting)
    first = await transport._dial(address, PLAINTEXT, "", 5)
    first.data_received(LIMIT)
    both = Limited.__new__(Limited)
    connection = NativeConnection(first, lambda: both.dial())
    both.__init__(connection, first, address)
    yield both
    await connection.close()
    await server.drain(0)


async def test_a_waiting_call_takes_the_slot_of_one_that_ends(accepting: Accepting) -> None:
    async with limited(accepting) as both:
        first, second, third = (opened(both.connection) for _ in range(3))
        say(second, b"a", b"b")
        say(third, b"c")
        for call in (second, third):
            assert call.stream is not None
            call.stream.finish()
        say(first, b"x")
        await until(first, lambda: bool(first.messages))
        assert len(accepting.owners) == 1
        assert first.stream is not None
        first.stream.finish()
        for call, messages in ((second, [b"a", b"b"]), (third, [b"c"])):
            await until(call, lambda call=call: call.status is not None)
            assert (call.messages, call.status) == (messages, OK)
        assert both.connection.usable


async def test_a_call_that_is_cancelled_while_it_waits_is_never_made(accepting: Accepting) -> None:
    async with limited(accepting) as both:
        first, second, third = (opened(both.connection) for _ in range(3))
        say(second, b"never")
        assert second.stream is not None
        second.stream.cancel()
        say(second, b"never")
        say(third, b"x")
        assert first.stream is not None
        first.stream.cancel()
        await until(third, lambda: bool(third.messages))
        assert second.status is None
        assert [owner.messages for owner in accepting.owners] == [[], [b"x"]]


async def test_a_call_that_waits_holds_its_owner_back(accepting: Accepting) -> None:
    async with limited(accepting) as both:
        first, second = opened(both.connection), opened(both.connection)
        say(second, bytes(HIGH_WATER), b"x", b"y")
        assert (second.pauses, second.resumes) == (1, 0)
        assert second.stream is not None
        second.stream.pause_reading()
        assert first.stream is not None
        first.stream.cancel()
        await until(second, lambda: second.resumes == second.pauses)
        assert second.messages == []
        second.stream.resume_reading()
        await until(second, lambda: len(second.messages) == 3)


async def test_calls_end_when_nobody_is_there_any_more(accepting: Accepting) -> None:
    async with limited(accepting) as both:
        first, waiting = opened(both.connection), opened(both.connection)
        await asyncio.sleep(0)
        both.first.data_received(frames.goaway(1, ErrorCode.NO_ERROR))
        await until(waiting, lambda: waiting.status is not None)
        assert waiting.status is not None
        assert waiting.status == (14, "nobody is there any more")
        assert first.status is None
        assert not both.connection.usable


async def test_what_is_dialled_for_those_who_wait_takes_the_place_of_a_lost_connection(
    accepting: Accepting,
) -> None:
    async with limited(accepting) as both:
        both.answer = lambda: NativeTransport()._dial(both.address, PLAINTEXT, "", 5)
        opened(both.connection)
        waiting = opened(both.connection)
        both.first.transport.abort()
        say(waiting, b"x")
        await until(waiting, lambda: bool(waiting.messages))
        assert waiting.stream is not None
        waiting.stream.cancel()
        # a connection beyond the first one would go now
        both.connection._tidy()
        assert both.connection.usable
        again = opened(both.connection)
        say(again, b"y")
        await until(again, lambda: bool(again.messages))
        assert (again.status, both.dialled) == (None, 1)


async def test_a_server_that_takes_no_streams_at_all_is_not_dialled_for_ever(
    accepting: Accepting,
) -> None:
    async with limited(accepting) as both:

        async def useless() -> ClientProtocol:
            protocol = await NativeTransport()._dial(both.address, PLAINTEXT, "", 5)
            protocol.data_received(frames.settings({frames.MAX_CONCURRENT_STREAMS: 0}))
            return protocol

        both.answer = useless
        first = opened(both.connection)
        waiting = [opened(both.connection) for _ in range(20)]
        say(first, b"x")
        await until(first, lambda: bool(first.messages))
        for _ in range(20):
            await asyncio.sleep(0.01)
            opened(both.connection)
        assert both.dialled == 1
        say(waiting[0], b"y")
        assert first.stream is not None
        first.stream.cancel()
        await until(waiting[0], lambda: bool(waiting[0].messages))


async def test_closing_ends_those_who_wait(accepting: Accepting) -> None:
    async with limited(accepting) as both:
        opened(both.connection)
        waiting = opened(both.connection)
        await both.connection.close()
        assert waiting.status is not None
        assert waiting.status.code == 14
        late = opened(both.connection)
        await until(late, lambda: late.status is not None)


async def test_a_limiting_grpcio_server_gets_more_connections() -> None:
    server = aio.server(options=[("grpc.max_concurrent_streams", 3)])
    server.add_generic_rpc_handlers((_AnyMethod(Accepting(echo=True)),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = await NativeTransport().connect(f"127.0.0.1:{port}", PLAINTEXT, "", 5)
    calls = [opened(connection) for _ in range(20)]
    for call in calls:
        say(call, b"x")
    # all at once: none has ended
    for call in calls:
        await until(call, lambda call=call: bool(call.messages))
    await connection.close()
    await server.stop(0)
