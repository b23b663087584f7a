"""The native transport: our own gRPC over HTTP/2 on asyncio sockets, without tasks or queues per stream."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import cast

from epp_client.errors import PeerUnreachable
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.health import with_health
from epp_client.wire.http2.grpc import parse_timeout
from epp_client.wire.http2.inbox import Tally
from epp_client.wire.http2.server_stream import ServerStream
from epp_client.wire.native_connection import NativeConnection
from epp_client.wire.protocol import (
    CLOSING,
    GREETING,
    ClientProtocol,
    ServerProtocol,
    as_protocol,
)
from epp_client.wire.socket_file import BACKLOG, BoundSocket
from epp_client.wire.status import DEADLINE_EXCEEDED, INTERNAL, Status
from epp_client.wire.tls import TlsStore, explain
from epp_client.wire.transport import NO_OWNER, Accept, Stream, StreamEvents

MAX_DEADLINE = 24 * 3600.0
"""Seconds. A longer grpc-timeout is ignored."""
SETTLING = 1.0
"""Seconds that a drain gives a new connection for its first request."""
MAX_CONNECTIONS = 1024
"""Open connections of a server. Envoy opens one per worker thread."""


class NativeServer:
    """A listening socket and its connections."""

    def __init__(
        self,
        accept: Accept,
        bound: BoundSocket | None = None,
        greeting: float = GREETING,
        max_connections: int = MAX_CONNECTIONS,
        tally: Tally | None = None,
    ) -> None:
        self._accept = accept
        self._tally = tally or Tally()
        self._greeting = greeting
        self._max_connections = max_connections
        self._protocols: set[ServerProtocol] = set()
        self._listener: asyncio.AbstractServer | None = None
        self._bound = bound

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket."""
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            self._listener = await loop.create_unix_server(
                self._connected, sock=sock, backlog=BACKLOG
            )
        else:
            self._listener = await loop.create_server(self._connected, sock=sock, backlog=BACKLOG)

    def _connected(self) -> asyncio.Protocol:
        if len(self._protocols) >= self._max_connections:
            return _Refused()
        protocol = ServerProtocol(self._accept, self._greeting)
        protocol.connection.tally = self._tally
        self._protocols.add(protocol)
        protocol.gone.add_done_callback(lambda _: self._protocols.discard(protocol))
        return as_protocol(protocol)

    async def drain(self, timeout: float) -> None:
        """See `Server.drain`."""
        if self._listener is not None:
            self._listener.close()
            if self._bound is not None:
                self._bound.remove()
        loop = asyncio.get_running_loop()
        for protocol in self._protocols:
            if protocol.connection.settled:
                protocol.connection.drain()
            else:
                # The first request of a new connection may be on its way.
                loop.call_later(min(SETTLING, timeout), protocol.connection.drain)
        await self._gone(timeout)
        for protocol in list(self._protocols):
            protocol.end("the drain timeout is over")
        await self._gone(CLOSING)
        for protocol in list(self._protocols):
            protocol.transport.abort()
        await self._gone(CLOSING)

    async def _gone(self, timeout: float) -> None:
        if self._protocols:
            await asyncio.wait([protocol.gone for protocol in self._protocols], timeout=timeout)


class _Refused(asyncio.Protocol):
    """A connection above `MAX_CONNECTIONS`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


class NativeTransport:
    """`Transport` over our own HTTP/2.

    `serving` answers gRPC health checks on the server's socket; without it they go to `accept`.
    `inherited` is a socket for `serve`, bound by another process, which manages its name.
    """

    name = "native"

    def __init__(
        self,
        serving: Callable[[], bool] | None = None,
        *,
        inherited: socket.socket | None = None,
        keepalive_interval: float = 10.0,
        keepalive_timeout: float = 5.0,
        greeting_timeout: float = GREETING,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._serving = serving
        self._inherited = inherited
        self._greeting = greeting_timeout
        self._max_connections = max_connections
        self._interval = keepalive_interval
        self._timeout = keepalive_timeout
        self._tls = TlsStore()
        self._tally = Tally()

    def tls_edition(self, tls: ClientTls) -> int:
        """See `Transport.tls_edition`."""
        return self._tls.edition(tls)

    async def serve(self, socket_path: str, accept: Accept) -> NativeServer:
        """See `Transport.serve`.

        Raises:
            OSError: the path cannot be bound, or is not a socket.
        """
        if self._inherited is not None:
            return await self.serve_socket(self._inherited, accept)
        bound = BoundSocket(socket_path)
        try:
            server = await self.serve_socket(bound.socket, accept, bound)
        except BaseException:
            bound.close()
            raise
        bound.take_place()
        return server

    async def serve_socket(
        self, sock: socket.socket, accept: Accept, bound: BoundSocket | None = None
    ) -> NativeServer:
        """Serve on a bound stream socket of any family. `bound` is removed when the server drains."""
        if self._serving is not None:
            accept = with_health(accept, self._serving)
        server = NativeServer(
            _with_deadlines(accept), bound, self._greeting, self._max_connections, self._tally
        )
        sock.setblocking(False)
        await server.listen(sock)
        return server

    async def connect(
        self, address: str, tls: ClientTls, server_name: str, timeout: float
    ) -> NativeConnection:
        """See `Transport.connect`."""

        async def dial() -> ClientProtocol:
            return await self._dial(address, tls, server_name, timeout)

        return NativeConnection(await dial(), dial)

    async def _dial(
        self, address: str, tls: ClientTls, server_name: str, timeout: float
    ) -> ClientProtocol:
        loop = asyncio.get_running_loop()
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        name = tls.server_name or server_name or host
        made: list[ClientProtocol] = []

        def protocol() -> asyncio.Protocol:
            scheme = "http" if tls.mode is TlsMode.PLAINTEXT else "https"
            authority = address if scheme == "http" else name
            made.append(ClientProtocol(scheme, authority, self._interval, self._timeout))
            made[0].connection.tally = self._tally
            return as_protocol(made[0])

        context = self._tls.for_peer(address, tls).context
        try:
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
            raise PeerUnreachable(explain(address, tls, error)) from error
        except BaseException:
            _abandon(made)
            raise
        _keep_alive(made[0].transport, self._interval, self._timeout)
        return made[0]


def _abandon(made: list[ClientProtocol]) -> None:
    # Empty the list, to break a cycle: `ready` refers to the error, and its traceback to the list.
    while made:
        made.pop().abandon()


def _check_alpn(transport: asyncio.Transport) -> None:
    secured = transport.get_extra_info("ssl_object")
    if secured is not None and secured.selected_alpn_protocol() != "h2":
        raise ConnectionError("the server does not offer HTTP/2 (ALPN h2)")


def _keep_alive(transport: asyncio.Transport, interval: float, timeout: float) -> None:
    """Turn on TCP keepalive, to notice hosts that have vanished. gRPC servers accept only a few pings."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(interval)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(timeout)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    # The same for sent bytes that are not acknowledged.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        patience = int((interval + 2 * timeout) * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)


def _with_deadlines(accept: Accept) -> Accept:
    """`accept`, with grpc-timeout enforced: a late stream ends with DEADLINE_EXCEEDED."""

    def accept_until(stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        value = metadata.get("grpc-timeout")
        if value is not None and isinstance(stream, ServerStream):
            seconds = parse_timeout(value)
            if seconds is None:
                stream.finish(Status(INTERNAL, "malformed grpc-timeout"))
                return NO_OWNER
            if seconds <= MAX_DEADLINE:
                late = Status(DEADLINE_EXCEEDED, "the deadline has passed")
                timer = asyncio.get_running_loop().call_later(seconds, stream.fail, late)
                stream.on_end = timer.cancel
        return accept(stream, path, metadata)

    return accept_until
