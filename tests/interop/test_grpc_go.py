"""Our wire and grpc-go, each as the server of the other. See main.go for what the other side does."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator

import pytest

from epp_client.wire.native import NativeTransport
from epp_client.wire.native_connection import NativeConnection
from epp_client.wire.status import OK, Status
from epp_client.wire.transport import Stream

from ..wire.owners import PATH, Accepting, Owner
from ..wire.test_native import PLAINTEXT, loopback, until
from .conftest import grpc_go, line, server


@contextlib.asynccontextmanager
async def connected(
    address: str, *, keepalive: tuple[float, float] = (10.0, 5.0)
) -> AsyncIterator[NativeConnection]:
    transport = NativeTransport(keepalive_interval=keepalive[0], keepalive_timeout=keepalive[1])
    connection = await transport.connect(address, PLAINTEXT, "", 10)
    yield connection
    await connection.close()


def opened(connection: NativeConnection, act: str = "", detail: str = "") -> tuple[Owner, Stream]:
    call = Owner()
    stream = connection.open(PATH, {"act": act, "detail": detail}, call)
    call.stream = stream
    return call, stream


async def ended(call: Owner) -> Status:
    await until(call, lambda: call.status is not None)
    assert call.status is not None
    return call.status


# --- our client, their server ---


@pytest.mark.parametrize("flags", [(), ("-window", "65536")])
async def test_messages_of_all_sizes_go_there_and_back(flags: tuple[str, ...]) -> None:
    sent = [os.urandom(size) for size in (0, 1, 16_379, 16_380, 70_000, 5_000_000, 20_000_000)]
    async with server(*flags) as (_, address), connected(address) as connection:
        for _ in range(2):
            call, stream = opened(connection)
            for message in sent:
                stream.send(message)
            stream.finish()
            assert await ended(call) == OK
            assert call.messages == sent


async def test_more_connections_are_made_when_the_server_limits_streams() -> None:
    async with server("-max-streams", "10") as (_, address), connected(address) as connection:
        calls = [opened(connection) for _ in range(100)]
        for number, (_, stream) in enumerate(calls):
            stream.send(b"%d" % number)
        # all of them at once: nobody has ended yet
        for number, (call, _) in enumerate(calls):
            await until(call, lambda call=call: bool(call.messages))
            assert call.messages == [b"%d" % number]
        assert connection.usable
        for call, stream in calls:
            stream.finish()
            assert await ended(call) == OK


async def test_calls_beyond_every_slot_wait_their_turn() -> None:
    async with server("-max-streams", "1") as (_, address), connected(address) as connection:
        calls = [opened(connection) for _ in range(300)]
        for _, stream in calls:
            stream.send(b"x" * 640)
            stream.finish()
        for call, _ in calls:
            assert await ended(call) == OK
            assert call.messages == [b"x" * 640]


async def test_graceful_stop_serves_what_is_open_and_takes_no_more() -> None:
    async with server() as (process, address), connected(address) as connection:
        call, stream = opened(connection)
        stream.send(b"x")
        await until(call, lambda: bool(call.messages))
        assert process.stdin is not None
        process.stdin.write(b"stop\n")
        async with asyncio.timeout(20):
            while connection.usable:
                await asyncio.sleep(0.01)
        late, _ = opened(connection)
        assert (await ended(late)).code == 14
        stream.send(b"y")
        stream.finish()
        assert await ended(call) == OK
        assert call.messages == [b"x", b"y"]
        async with asyncio.timeout(20):
            await process.wait()


async def test_a_connection_that_grows_old_in_mid_life_loses_nothing() -> None:
    """MaxConnectionAge: GOAWAY while calls are begun one after the other."""
    async with server("-max-age", "200ms") as (_, address):
        connection = await NativeTransport().connect(address, PLAINTEXT, "", 10)
        served = goaways = 0
        while goaways < 3:
            if not connection.usable:
                goaways += 1
                await connection.close(5)
                connection = await NativeTransport().connect(address, PLAINTEXT, "", 10)
            call, stream = opened(connection)
            stream.send(b"x")
            stream.finish()
            assert await ended(call) == OK
            served += 1
        assert served > 3
        await connection.close()


async def test_our_keepalive_does_not_upset_a_strict_server() -> None:
    """grpc-go ends connections that ping more than twice without calls being answered."""
    async with (
        server("-strict") as (_, address),
        connected(address, keepalive=(0.05, 5.0)) as connection,
    ):
        call, stream = opened(connection, "silent")
        # thirty silences
        await asyncio.sleep(1.5)
        assert call.status is None
        other, second = opened(connection)
        second.send(b"x")
        second.finish()
        assert await ended(other) == OK
        stream.cancel()


async def test_their_pings_are_answered() -> None:
    async with server("-ping", "1s") as (_, address), connected(address) as connection:
        call, stream = opened(connection)
        stream.send(b"x")
        await asyncio.sleep(3.5)
        stream.finish()
        assert await ended(call) == OK


@pytest.mark.parametrize("code", [3, 8, 14])
async def test_answers_of_trailers_only(code: int) -> None:
    async with server() as (_, address), connected(address) as connection:
        call, _ = opened(connection, "refuse", str(code))
        assert await ended(call) == Status(code, "no: 100 % Ünïcode")


async def test_one_message_of_forty_megabytes() -> None:
    async with server() as (_, address), connected(address) as connection:
        call, _ = opened(connection, "big", "40000000")
        assert await ended(call) == OK
        assert call.messages == [bytes(40_000_000)]


async def test_a_message_beyond_our_bound_ends_its_call_only() -> None:
    async with server() as (_, address), connected(address) as connection:
        other, stream = opened(connection)
        call, _ = opened(connection, "big", str(64 * 1024 * 1024 + 1))
        assert (await ended(call)).code == 8
        stream.send(b"x")
        stream.finish()
        assert await ended(other) == OK


async def test_a_slow_reader_there_gets_everything() -> None:
    piece, count = os.urandom(50_000), 100
    async with server("-window", "65536") as (_, address), connected(address) as connection:
        call, stream = opened(connection, "slow", "2")
        sent = 0
        while sent < count:
            while call.pauses > call.resumes:
                await until(call, lambda: call.pauses == call.resumes)
            stream.send(piece)
            sent += 1
        stream.finish()
        assert await ended(call) == OK
        assert call.messages == [hashlib.sha256(piece * count).digest()]
        assert call.pauses > 1


async def test_a_slow_reader_here_stops_the_writer_there() -> None:
    count = 200_000
    async with server() as (_, address), connected(address) as connection:
        call, stream = opened(connection, "many", str(count))
        stream.pause_reading()
        # nobody else is held up
        other, second = opened(connection)
        second.send(b"x" * 1_000_000)
        second.finish()
        assert await ended(other) == OK
        assert (call.messages, call.status) == ([], None)
        stream.resume_reading()
        assert await ended(call) == OK
        assert call.messages == [b"%d" % n for n in range(count)]


async def test_a_cancelled_call_frees_its_slot_there() -> None:
    async with server("-max-streams", "1") as (_, address), connected(address) as connection:
        for _ in range(50):
            call, stream = opened(connection)
            stream.send(b"x")
            await until(call, lambda call=call: bool(call.messages))
            stream.cancel()


# --- their client, our server ---

ANSWERS = {
    "echo": "OK",
    "many": "map[OK:1000]",
    "deadline": "DeadlineExceeded",
    "cancel": "Canceled",
    "gzip": "Unimplemented",
    "slow": "OK",
    "pings": "true",
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_their_client(case: str) -> None:
    sock, address = loopback()
    ours = await NativeTransport().serve_socket(sock, Accepting(echo=True))
    async with grpc_go("call", address, case) as process:
        assert await line(process) == ANSWERS[case]
    await ours.drain(0)


async def test_their_client_reads_our_statuses() -> None:
    class Refusing(Accepting):
        def __call__(self, stream: Stream, path: str, metadata: object) -> Owner:
            del path, metadata
            stream.finish(Status(5, "no: 100 % Ünïcode\n"))
            return Owner()

    sock, address = loopback()
    ours = await NativeTransport().serve_socket(sock, Refusing())
    async with grpc_go("call", address, "status") as process:
        said = await line(process)
    assert said == "rpc error: code = NotFound desc = no: 100 % Ünïcode"
    await ours.drain(0)


async def test_their_client_is_drained_without_a_loss() -> None:
    sock, address = loopback()
    ours = await NativeTransport().serve_socket(sock, Accepting(echo=True))
    async with grpc_go("call", address, "drain") as process:
        assert await line(process) == "begun"
        draining = asyncio.create_task(ours.drain(20))
        await asyncio.sleep(0.1)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert await line(process) == "true"
        async with asyncio.timeout(20):
            await draining
