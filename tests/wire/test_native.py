"""The native transport over real sockets: against itself, and against grpcio in both directions."""

import asyncio
import contextlib
import gc
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
import trustme
import uvloop
from grpc import aio

from epp_client.errors import PeerUnreachable
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.grpcio import GrpcioServer, _AnyMethod
from epp_client.wire.grpcio_channel import OPTIONS
from epp_client.wire.http2.connection import Http2Connection
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection
from epp_client.wire.http2.stream import HIGH_WATER
from epp_client.wire.native import NativeServer, NativeTransport
from epp_client.wire.native_connection import NativeConnection
from epp_client.wire.protocol import ClientProtocol
from epp_client.wire.status import OK, Status

from .owners import PATH, Accepting, Owner

PLAINTEXT = ClientTls(mode=TlsMode.PLAINTEXT)
NAME = "epp.default.svc"


def loopback() -> tuple[socket.socket, str]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, f"127.0.0.1:{sock.getsockname()[1]}"


async def until(owner: Owner, true: Callable[[], bool]) -> None:
    """Wait until something that happens to `owner` makes it true."""
    changed = asyncio.Event()
    owner.on_change = changed.set
    async with asyncio.timeout(60):
        while not true():
            await changed.wait()
            changed.clear()


class Ends:
    """An echoing native server and a native connection to it."""

    accepting: Accepting
    server: NativeServer
    address: str
    connection: NativeConnection

    def open(self) -> Owner:
        call = Owner()
        call.stream = self.connection.open(PATH, {}, call)
        return call


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[Ends]:
    both = Ends()
    both.accepting = Accepting(echo=True)
    sock, both.address = loopback()
    transport = NativeTransport()
    both.server = await transport.serve_socket(sock, both.accepting)
    both.connection = await transport.connect(both.address, PLAINTEXT, "", 5)
    yield both
    await both.connection.close()
    await both.server.drain(0)


async def test_a_call_over_loopback(ends: Ends) -> None:
    call = ends.open()
    assert call.stream is not None
    call.stream.send(b"hello")
    call.stream.finish()
    await until(call, lambda: call.status is not None)
    assert (call.messages, call.status) == ([b"hello"], OK)


def test_a_call_on_uvloop(tmp_path: Path) -> None:
    async def call() -> Status | None:
        transport = NativeTransport()
        unix = await transport.serve(str(tmp_path / "s"), Accepting())
        sock, address = loopback()
        server = await transport.serve_socket(sock, Accepting(echo=True))
        connection = await transport.connect(address, PLAINTEXT, "", 5)
        owner = Owner()
        owner.stream = connection.open(PATH, {}, owner)
        owner.stream.send(bytes(3_000_000))
        owner.stream.finish()
        await until(owner, lambda: owner.status is not None)
        await connection.close()
        await server.drain(0)
        await unix.drain(0)
        return owner.status

    assert uvloop.run(call()) == OK


async def test_grpcio_calls_our_server(ends: Ends) -> None:
    async with aio.insecure_channel(ends.address, options=OPTIONS) as channel:
        big = os.urandom(6_000_000)
        async with asyncio.timeout(60):
            call = channel.stream_stream(PATH)(iter([b"a", b"", big]), metadata=(("k", "v"),))
            assert [m async for m in call] == [b"a", b"", big]
            assert await call.code() is grpc.StatusCode.OK
    assert ends.accepting.owners[0].metadata["k"] == "v"


async def test_grpcio_sees_our_statuses_and_our_deadline(ends: Ends) -> None:
    async with aio.insecure_channel(ends.address) as channel:
        call = channel.stream_stream(PATH)(timeout=0.2)
        async with asyncio.timeout(60):
            with pytest.raises(aio.AioRpcError) as error:
                await call.read()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    owner = ends.accepting.owners[0]
    await until(owner, lambda: owner.status is not None)
    assert owner.status is not None
    assert owner.status.code in (1, 4)


async def test_a_grpcio_client_that_cancels_is_reported(ends: Ends) -> None:
    async with aio.insecure_channel(ends.address) as channel:
        call = channel.stream_stream(PATH)()
        await call.write(b"x")
        assert await call.read() == b"x"
        call.cancel()
        owner = ends.accepting.owners[0]
        await until(owner, lambda: owner.status is not None)
    assert owner.status is not None
    assert owner.status.code == 1


@pytest_asyncio.fixture
async def grpcio_server() -> AsyncIterator[str]:
    server = aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((_AnyMethod(Accepting(echo=True)),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await GrpcioServer(server).drain(0)


async def test_our_client_calls_a_grpcio_server(grpcio_server: str) -> None:
    connection = await NativeTransport().connect(grpcio_server, PLAINTEXT, "", 5)
    big = os.urandom(6_000_000)
    for _ in range(2):
        call = Owner()
        call.stream = connection.open(PATH, {"k": "v"}, call)
        for message in (b"a", b"", big):
            call.stream.send(message)
        call.stream.finish()
        await until(call, lambda call=call: call.status is not None)
        assert (call.messages, call.status) == ([b"a", b"", big], OK)
    await connection.close()


async def test_a_thousand_calls_at_once(ends: Ends) -> None:
    calls = [ends.open() for _ in range(1000)]
    for call in calls:
        assert call.stream is not None
        call.stream.send(b"x" * 640)
        call.stream.finish()
    for call in calls:
        await until(call, lambda call=call: call.status is not None)
    assert {(call.messages[0], call.status) for call in calls} == {(b"x" * 640, OK)}


async def test_a_slow_reader_stops_the_writer(ends: Ends) -> None:
    call = ends.open()
    assert call.stream is not None
    call.stream.send(b"x")
    await until(call, lambda: bool(call.messages))
    reader = ends.accepting.owners[0]
    reader.echo = False
    assert reader.stream is not None
    reader.stream.pause_reading()
    sent = 0
    while not call.pauses:
        call.stream.send(bytes(50_000))
        sent += 1
        await asyncio.sleep(0)
    assert sent * 50_000 < 1_000_000 + HIGH_WATER
    reader.stream.resume_reading()
    await until(reader, lambda: len(reader.messages) == sent + 1)
    assert call.resumes == 1


async def test_draining_waits_for_open_calls_and_refuses_new_ones(ends: Ends) -> None:
    call = ends.open()
    assert call.stream is not None
    call.stream.send(b"x")
    await until(call, lambda: bool(call.messages))
    drained = asyncio.create_task(ends.server.drain(10))
    await asyncio.sleep(0)
    call.stream.send(b"y")
    # the GOAWAY came before this
    await until(call, lambda: len(call.messages) == 2)
    assert not ends.connection.usable
    late = ends.open()
    await until(late, lambda: late.status is not None)
    assert late.status is not None
    assert late.status.code == 14
    call.stream.finish()
    await until(call, lambda: call.status is not None)
    assert call.status == OK
    async with asyncio.timeout(60):
        await drained


async def test_calls_on_a_connection_that_breaks_are_unavailable(ends: Ends) -> None:
    call = ends.open()
    await ends.server.drain(0)
    await until(call, lambda: call.status is not None)
    assert call.status is not None
    assert call.status.code == 14


async def test_health_is_answered_on_the_same_socket() -> None:
    serving = True
    sock, address = loopback()
    transport = NativeTransport(lambda: serving)
    server = await transport.serve_socket(sock, Accepting())
    async with aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"") == b"\x08\x01"
        assert await check(b"\x0a\x09readiness") == b"\x08\x01"
        serving = False
        assert await check(b"\x0a\x08liveness") == b"\x08\x02"
        with pytest.raises(aio.AioRpcError) as error:
            await check(b"\x0a\x05other")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(aio.AioRpcError) as error:
            await channel.unary_unary("/grpc.health.v1.Health/Watch")(b"")
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.drain(0)


async def test_the_socket_file_is_private_and_replaces_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    server = await NativeTransport().serve(str(path), Accepting())
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    await server.drain(0)
    assert not path.exists()


async def test_a_file_that_is_no_socket_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        await NativeTransport().serve(str(path), Accepting())
    assert path.read_text() == "precious"


async def test_a_peer_that_answers_no_ping_is_given_up() -> None:
    sock, address = loopback()
    transport = NativeTransport(keepalive_interval=0.05, keepalive_timeout=0.05)
    server = await transport.serve_socket(sock, Accepting())
    connection = await transport.connect(address, PLAINTEXT, "", 5)
    call = Owner()
    call.stream = connection.open(PATH, {}, call)
    peer = next(iter(server._protocols))
    peer.transport.pause_reading()
    await until(call, lambda: call.status is not None)
    assert call.status == Status(14, "the peer does not answer a PING")
    await connection.close()
    await server.drain(0)


class Secure:
    """Two TLS servers: one takes anybody, one asks for a client certificate."""

    ca: Path
    cert: Path
    key: Path
    anybody: str
    mutual: str


@pytest_asyncio.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    authority = trustme.CA()
    own, client = authority.issue_cert(NAME), authority.issue_cert("sidecar.default.svc")
    files = Secure()
    files.ca, files.cert, files.key = (tmp_path / n for n in ("ca.pem", "c.pem", "c.key"))
    authority.cert_pem.write_to_path(files.ca)
    client.cert_chain_pems[0].write_to_path(files.cert)
    client.private_key_pem.write_to_path(files.key)
    pair = [(own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())]
    servers = []
    for name, roots in (("anybody", None), ("mutual", authority.cert_pem.bytes())):
        server = aio.server()
        server.add_generic_rpc_handlers((_AnyMethod(Accepting(echo=True)),))
        credentials = grpc.ssl_server_credentials(pair, roots, roots is not None)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        setattr(files, name, f"127.0.0.1:{port}")
        servers.append(server)
    yield files
    for server in servers:
        await server.stop(0)


async def say_hello(address: str, tls: ClientTls) -> Status | None:
    connection = await NativeTransport().connect(address, tls, NAME, 5)
    call = Owner()
    call.stream = connection.open(PATH, {}, call)
    call.stream.send(b"hello")
    call.stream.finish()
    await until(call, lambda: call.status is not None)
    await connection.close()
    return call.status


async def test_tls_verified_unverified_and_mutual(secure: Secure) -> None:
    verified = ClientTls(mode=TlsMode.VERIFIED, ca_file=secure.ca)
    unverified = ClientTls(mode=TlsMode.UNVERIFIED, server_name="whatever")
    own = {"cert_file": secure.cert, "key_file": secure.key}
    assert await say_hello(secure.anybody, verified) == OK
    assert await say_hello(secure.anybody, unverified) == OK
    assert await say_hello(secure.mutual, verified.model_copy(update=own)) == OK


async def test_tls_refusals_say_what_to_do(secure: Secure) -> None:
    verified = ClientTls(mode=TlsMode.VERIFIED, ca_file=secure.ca)
    for tls, text in (
        (ClientTls(mode=TlsMode.VERIFIED), "certificate"),
        (verified.model_copy(update={"server_name": "other.svc"}), "certificate"),
        (verified.model_copy(update={"ca_file": Path("/nonexistent")}), "No such file"),
        (PLAINTEXT, "if the picker speaks TLS, set --picker-tls"),
    ):
        with pytest.raises(PeerUnreachable, match=text):
            await say_hello(secure.anybody, tls)


async def test_nobody_listens() -> None:
    with pytest.raises(PeerUnreachable, match="refused"):
        await NativeTransport().connect("127.0.0.1:1", PLAINTEXT, "", 5)


async def test_a_peer_that_says_nothing_times_out() -> None:
    sock, address = loopback()
    sock.listen()
    with pytest.raises(PeerUnreachable, match="timed out"):
        await NativeTransport().connect(address, PLAINTEXT, "", 0.1)
    sock.close()


async def test_a_reply_leaves_in_the_turn_in_which_its_cause_came() -> None:
    written: list[bytes] = []
    protocol = ClientProtocol("http", "a:1", 10, 10)

    class Transport(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            written.append(bytes(data))

        def abort(self) -> None:
            protocol.connection_lost(None)

    protocol.connection_made(Transport())
    server = ServerConnection(Accepting(), lambda: 0.0, Shell(), lambda error: None)
    server.receive(written.pop())
    protocol.data_received(server.take())
    assert len(written) == 1
    call = Owner()
    stream = protocol.connection.open(PATH, {}, call)
    for _ in range(3):
        stream.send(b"x")
    assert len(written) == 1
    await asyncio.sleep(0)
    assert len(written) == 2
    protocol.abandon()


async def leave(in_vain: bool) -> list[object]:
    """Connections that have ended, on both sides; what of them only a collector finds."""
    sock, address = loopback()
    transport, accepting = NativeTransport(), Accepting(echo=True)
    server = await transport.serve_socket(sock, accepting)
    if in_vain:
        await server.drain(0)

    async def connect() -> None:
        with contextlib.suppress(PeerUnreachable):
            connection = await transport.connect(address, PLAINTEXT, "", 5)
            call = Owner()
            call.stream = connection.open(PATH, {}, call)
            call.stream.send(b"hello")
            await until(call, lambda: call.messages != [])
            await connection.close()
            accepting.owners.clear()

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            await connect()
        # the last socket is closed in a later turn
        await asyncio.sleep(0.1)
        gc.collect()
        return [left for left in gc.garbage if isinstance(left, Http2Connection)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        if not in_vain:
            await server.drain(0)


@pytest.mark.parametrize("in_vain", [False, True])
def test_a_connection_that_has_ended_leaves_nothing_to_a_collector(in_vain: bool) -> None:
    """It comes by rarely, and what a connection holds may be megabytes."""
    assert uvloop.run(leave(in_vain)) == []
