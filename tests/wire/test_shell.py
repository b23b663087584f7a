"""The native transport's sockets: who gets one, for how long, and what ends it."""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from grpc import aio

from epp_client.wire.grpcio import GrpcioTransport
from epp_client.wire.http2 import frames
from epp_client.wire.http2.frames import ErrorCode
from epp_client.wire.native import NativeServer, NativeTransport
from epp_client.wire.protocol import MAX_UNREAD, ServerProtocol
from epp_client.wire.socket_file import SocketFile
from epp_client.wire.status import Status
from epp_client.wire.transport import Stream, Transport

from .owners import PATH, Accepting, Owner
from .raw import data, error_of, message, request
from .test_native import PLAINTEXT, loopback, until

GREETING = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})


@contextlib.asynccontextmanager
async def serving(
    accepting: Accepting | None = None, transport: NativeTransport | None = None
) -> AsyncIterator[tuple[NativeServer, str]]:
    sock, address = loopback()
    server = await (transport or NativeTransport()).serve_socket(sock, accepting or Accepting())
    yield server, address
    async with asyncio.timeout(60):
        await server.drain(0)


async def dial(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = address.split(":")
    return await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(("timeout", "code"), [("50m", 4), ("soon", 13)])
async def test_the_server_keeps_the_callers_deadline(timeout: str, code: int) -> None:
    accepting = Accepting()
    async with serving(accepting) as (_, address):
        connection = await NativeTransport().connect(address, PLAINTEXT, "", 5)
        call = Owner()
        call.stream = connection.open(PATH, {"grpc-timeout": timeout}, call)
        await until(call, lambda: call.status is not None)
        assert call.status is not None
        assert call.status.code == code
        assert [owner.status and owner.status.code for owner in accepting.owners] == [4] * (
            code == 4
        )
        await connection.close()


async def test_a_client_that_does_not_greet_is_hung_up_on() -> None:
    transport = NativeTransport(greeting_timeout=0.1)
    async with serving(transport=transport) as (server, address):
        silent = await dial(address)
        preface = await dial(address)
        preface[1].write(frames.PREFACE)
        for reader, writer in (silent, preface):
            async with asyncio.timeout(60):
                # to the end
                said = await reader.read()
            assert error_of(said) is ErrorCode.NO_ERROR
            writer.close()
        assert not server._protocols


async def test_connections_beyond_the_bound_are_not_taken() -> None:
    transport = NativeTransport(max_connections=1)
    async with serving(transport=transport) as (server, address):
        reader, first = await dial(address)
        first.write(GREETING)
        await reader.readexactly(9)
        second, other = await dial(address)
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                assert await second.read() == b""
        assert len(server._protocols) == 1
        for writer in (first, other):
            writer.close()


async def test_a_socket_goes_even_if_its_peer_takes_nothing() -> None:
    accepting = Accepting()
    async with serving(accepting) as (server, address):
        _, writer = await dial(address)
        read_nothing(writer)
        # An answer that fills every buffer between us, and then an end of the connection.
        writer.write(GREETING + frames.window_update(0, 1 << 30) + request(1))
        (protocol,) = await some(server)
        while not accepting.owners:
            await asyncio.sleep(0.01)
        stream = accepting.owners[0].stream
        assert stream is not None
        stream.send(bytes(30_000_000))
        writer.write(b"garbage that is no frame")
        async with asyncio.timeout(60):
            await protocol.gone
        writer.transport.abort()


def read_nothing(writer: asyncio.StreamWriter) -> None:
    cast("asyncio.Transport", writer.transport).pause_reading()


async def some(server: NativeServer) -> list[ServerProtocol]:
    async with asyncio.timeout(60):
        while not server._protocols:
            await asyncio.sleep(0.01)
    return list(server._protocols)


async def test_a_client_that_asks_and_never_reads_is_cut_off() -> None:
    """Each answer is legitimate; what piles up is not."""
    text = "x" * 60_000

    class Refusing(Accepting):
        def __call__(self, stream: Stream, path: str, metadata: object) -> Owner:
            del path, metadata
            stream.finish(Status(12, text))
            return Owner()

    async with serving(Refusing()) as (server, address):
        _, writer = await dial(address)
        read_nothing(writer)
        writer.write(GREETING)
        (protocol,) = await some(server)
        for n in range(3 * MAX_UNREAD // len(text)):
            if protocol.gone.done() or writer.transport.is_closing():
                break
            writer.write(request(2 * n + 1))
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await protocol.gone
        writer.transport.abort()


@pytest.mark.parametrize("transport", [NativeTransport(), GrpcioTransport()])
async def test_a_socket_has_its_rights_before_it_has_its_name(
    transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    seen: list[tuple[int, bool]] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((stat.S_IMODE(self.stat().st_mode), target.exists()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    monkeypatch.setattr(Path, "chmod", lambda self, mode: seen.append((self.stat().st_mode, True)))
    before = os.umask(0)
    try:
        server = await transport.serve(str(path), Accepting())
    finally:
        os.umask(before)
    (bound, _), placed = seen
    assert stat.S_IMODE(bound) == 0o660, "the rights came with chmod, after the socket"
    assert placed == (0o660, False)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    await server.drain(0)


async def test_servers_that_start_at_once_leave_the_umask_as_it_was(tmp_path: Path) -> None:
    # Seen in CI: every directory that the process made afterwards was closed to itself.
    before = os.umask(0o022)
    try:
        transport = GrpcioTransport()
        servers = await asyncio.gather(
            *(transport.serve(str(tmp_path / str(n)), Accepting()) for n in range(4))
        )
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    for server in servers:
        await server.drain(0)


async def test_health_is_answered_by_both_transports(tmp_path: Path) -> None:
    for transport in (NativeTransport(lambda: True), GrpcioTransport(lambda: True)):
        path = tmp_path / transport.name
        server = await transport.serve(str(path), Accepting())
        async with aio.insecure_channel(f"unix:{path}") as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await check(b"", timeout=10) == b"\x08\x01"
        await server.drain(0)


async def test_a_link_is_replaced_and_what_it_names_is_not(tmp_path: Path) -> None:
    other = tmp_path / "other"
    theirs = socket.socket(socket.AF_UNIX)
    theirs.bind(str(other))
    rights = stat.S_IMODE(other.stat().st_mode)
    link = tmp_path / "s"
    link.symlink_to(other)
    server = await NativeTransport().serve(str(link), Accepting())
    assert not link.is_symlink()
    assert other.exists()
    assert stat.S_IMODE(other.stat().st_mode) == rights
    await server.drain(0)
    theirs.close()


async def test_a_link_to_nothing_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "s"
    link.symlink_to(tmp_path / "precious")
    server = await NativeTransport().serve(str(link), Accepting())
    assert not (tmp_path / "precious").exists()
    await server.drain(0)


async def test_a_socket_of_a_newer_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = await NativeTransport().serve(str(path), Accepting())
    new = await NativeTransport().serve(str(path), Accepting())
    inode = path.stat().st_ino
    await old.drain(0)
    assert path.stat().st_ino == inode
    await new.drain(0)
    assert not path.exists()


def test_what_is_wrong_with_a_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone is not a directory"):
        SocketFile(str(tmp_path / "gone" / "s"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=r"file is not a directory"):
        SocketFile(str(tmp_path / "file" / "s"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o550)
    with pytest.raises(PermissionError, match=tmp_path.name):
        SocketFile(str(tmp_path / "s"))


async def test_a_path_that_cannot_be_bound_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 40)
    with pytest.raises(OSError, match=r"cannot bind .*longlong"):
        await NativeTransport().serve(str(path), Accepting())
    assert list(tmp_path.iterdir()) == []


async def test_a_connection_that_has_not_spoken_when_the_drain_begins_is_served() -> None:
    accepting = Accepting(echo=True)
    async with serving(accepting) as (server, address):
        reader, writer = await dial(address)
        async with asyncio.timeout(60):
            while not server._protocols:
                await asyncio.sleep(0.01)
            draining = asyncio.create_task(server.drain(10))
            await asyncio.sleep(0)
            writer.write(GREETING + request(1) + data(1, message(10), ended=True))
            said = b""
            while not accepting.owners:
                more = await reader.read(65536)
                assert more, f"hung up on: {said!r}"
                said += more
            writer.close()
            await draining
