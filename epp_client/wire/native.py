"""The native transport: our own gRPC over HTTP/2, on asyncio sockets. No task and no queue per stream."""

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from epp_client.errors import PickerUnreachable
from epp_client.pool.settings import PickerTls, PickerTlsMode
from epp_client.wire.grpc import DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, parse_timeout
from epp_client.wire.health import with_health
from epp_client.wire.protocol import ClientProtocol, ServerProtocol
from epp_client.wire.server_stream import ServerStream
from epp_client.wire.stream import NO_OWNER
from epp_client.wire.tls import picker_context, unreachable
from epp_client.wire.transport import OK, Accept, Status, Stream, StreamEvents

BACKLOG = 1024
LONGEST_DEADLINE = 24 * 3600.0
"""Seconds; a longer grpc-timeout needs no timer."""
_CLOSING = 1.0
"""Seconds for the last bytes of a connection that is being closed."""


class NativeServer:
    """A listening socket and its connections."""

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self._protocols: set[ServerProtocol] = set()
        self._listener: asyncio.AbstractServer | None = None
        self._file: tuple[Path, int] | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Take connections from a bound socket."""
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            path = Path(sock.getsockname())
            self._file = path, path.stat().st_ino
            self._listener = await loop.create_unix_server(
                self._connected, sock=sock, backlog=BACKLOG
            )
        else:
            self._listener = await loop.create_server(self._connected, sock=sock, backlog=BACKLOG)

    def _connected(self) -> ServerProtocol:
        protocol = ServerProtocol(self._accept)
        self._protocols.add(protocol)
        protocol.gone.add_done_callback(lambda _: self._protocols.discard(protocol))
        return protocol

    async def drain(self, timeout: float) -> None:
        """See `Server.drain`."""
        if self._listener is not None:
            self._listener.close()
            self._remove_file()
        for protocol in self._protocols:
            protocol.connection.drain()
        await self._gone(timeout)
        for protocol in list(self._protocols):
            protocol.end("draining is over")
        await self._gone(_CLOSING)
        for protocol in list(self._protocols):
            protocol.transport.abort()
        await self._gone(_CLOSING)

    async def _gone(self, timeout: float) -> None:
        if self._protocols:
            await asyncio.wait([protocol.gone for protocol in self._protocols], timeout=timeout)

    def _remove_file(self) -> None:
        """Remove the socket file, unless another process has put its own in the place."""
        if self._file is None:
            return
        path, inode = self._file
        try:
            if path.stat().st_ino == inode:
                path.unlink()
        except FileNotFoundError:
            return


class NativeConnection:
    """One connection to a picker's address."""

    def __init__(self, protocol: ClientProtocol) -> None:
        self._protocol = protocol

    @property
    def usable(self) -> bool:
        """See `Connection.usable`."""
        return self._protocol.connection.usable

    def open(self, path: str, metadata: Mapping[str, str], events: StreamEvents) -> Stream:
        """See `Connection.open`."""
        connection = self._protocol.connection
        if connection.usable:
            return connection.open(path, metadata, events)
        return _NeverOpened(events, self._protocol.loop)

    async def close(self, grace: float = 0.0) -> None:
        """See `Connection.close`."""
        protocol = self._protocol
        try:
            protocol.connection.drain()
            if grace:
                await asyncio.wait([protocol.gone], timeout=grace)
        finally:
            if not protocol.gone.done():
                protocol.end("closed by this side")
        await asyncio.wait([protocol.gone], timeout=_CLOSING)
        protocol.transport.abort()


class _NeverOpened:
    """A stream on a connection that takes none: says so in the next turn, unless cancelled."""

    def __init__(self, events: StreamEvents, loop: asyncio.AbstractEventLoop) -> None:
        status = Status(UNAVAILABLE, "the connection takes no more streams")
        self._told = loop.call_soon(events.closed, status)

    def send(self, message: bytes) -> None:
        """There is nowhere to send it."""

    def finish(self, status: Status = OK) -> None:
        """There is nothing to end."""

    def cancel(self) -> None:
        self._told.cancel()

    def pause_reading(self) -> None:
        """Nothing comes."""

    def resume_reading(self) -> None:
        """Nothing comes."""


class NativeTransport:
    """`Transport` over our own HTTP/2.

    `serving` answers gRPC health checks on the server's socket; without it they are the owner's.
    """

    name = "native"

    def __init__(
        self,
        serving: Callable[[], bool] | None = None,
        *,
        keepalive_interval: float = 10.0,
        keepalive_timeout: float = 5.0,
    ) -> None:
        self._serving = serving
        self._interval = keepalive_interval
        self._timeout = keepalive_timeout

    async def serve(self, socket_path: str, accept: Accept) -> NativeServer:
        """See `Transport.serve`.

        Raises:
            OSError: the path cannot be bound, or is a file that is not a socket.
        """
        path = Path(socket_path)
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o117)  # the socket must never be open to others, not even at first
        try:
            sock.bind(socket_path)
        except BaseException:
            sock.close()
            raise
        finally:
            os.umask(previous)
        path.chmod(0o660)
        return await self.serve_socket(sock, accept)

    async def serve_socket(self, sock: socket.socket, accept: Accept) -> NativeServer:
        """Serve on a bound stream socket of any family."""
        if self._serving is not None:
            accept = with_health(accept, self._serving)
        server = NativeServer(_with_deadlines(accept))
        sock.setblocking(False)
        await server.listen(sock)
        return server

    async def connect(
        self, address: str, tls: PickerTls, server_name: str, timeout: float
    ) -> NativeConnection:
        """See `Transport.connect`."""
        loop = asyncio.get_running_loop()
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        name = tls.server_name or server_name or host
        made: list[ClientProtocol] = []

        def protocol() -> ClientProtocol:
            scheme = "http" if tls.mode is PickerTlsMode.PLAINTEXT else "https"
            authority = address if scheme == "http" else name
            made.append(ClientProtocol(scheme, authority, self._interval, self._timeout))
            return made[0]

        try:
            context = picker_context(tls)
            async with asyncio.timeout(timeout):
                await loop.create_connection(
                    protocol,
                    host,
                    int(port),
                    ssl=context,
                    server_hostname=name if context else None,
                )
                await made[0].ready
            _check_alpn(made[0].transport)
        except (OSError, ValueError) as error:
            _abandon(made)
            raise PickerUnreachable(_explain(address, tls, error)) from error
        except BaseException:
            _abandon(made)
            raise
        _keep_alive(made[0].transport, self._interval, self._timeout)
        return NativeConnection(made[0])


def _abandon(made: list[ClientProtocol]) -> None:
    for protocol in made:
        protocol.abandon()


def _check_alpn(transport: asyncio.Transport) -> None:
    secured = transport.get_extra_info("ssl_object")
    if secured is not None and secured.selected_alpn_protocol() != "h2":
        raise ConnectionError("it does not offer HTTP/2 (ALPN h2)")


def _keep_alive(transport: asyncio.Transport, interval: float, timeout: float) -> None:
    """Have the kernel find hosts that vanished, which costs a gRPC server no ping of its quota."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(interval)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(timeout)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)


def _explain(address: str, tls: PickerTls, error: Exception) -> str:
    match error:
        case TimeoutError():
            cause = "timed out"
        case ssl.SSLCertVerificationError():
            cause = f"its certificate was refused: {error.verify_message}"
        case ConnectionRefusedError():
            cause = "refused"
        case _:
            cause = str(error) or type(error).__name__
    return unreachable(address, tls, cause)


def _with_deadlines(accept: Accept) -> Accept:
    """`accept`, with grpc-timeout enforced: the stream ends with DEADLINE_EXCEEDED."""

    def accept_until(stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        value = metadata.get("grpc-timeout")
        if value is not None and isinstance(stream, ServerStream):
            seconds = parse_timeout(value)
            if seconds is None:
                stream.finish(Status(INTERNAL, "malformed grpc-timeout"))
                return NO_OWNER
            if seconds <= LONGEST_DEADLINE:
                late = Status(DEADLINE_EXCEEDED, "the deadline has passed")
                timer = asyncio.get_running_loop().call_later(seconds, stream.fail, late)
                stream.on_end = timer.cancel
        return accept(stream, path, metadata)

    return accept_until
