"""The interface between the relay and a gRPC transport: bidirectional streams of bytes messages.

Two transports implement it: `grpcio` and our own wire. Everything is callbacks on one event loop,
like `asyncio.Protocol`: no task and no queue per stream is needed to relay a message. Messages are
whole gRPC messages, uncompressed, without their 5-byte prefix.

`StreamEvents` and `Stream` are classes instead of Protocols, because every message goes through several of
their methods: compiled by mypyc, calling a method of a class takes a tenth of the time.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from epp_client.tls_settings import ClientTls
from epp_client.wire.status import OK, Status


@mypyc_attr(allow_interpreted_subclasses=True)
class StreamEvents:
    """Callbacks of the owner of a stream. None is called after `closed`."""

    __slots__ = ()

    def message_received(self, message: bytes) -> None:
        """A complete message was received."""
        raise NotImplementedError

    def half_closed(self) -> None:
        """The peer has half-closed: it sends no more messages."""
        raise NotImplementedError

    def closed(self, status: Status) -> None:
        """The stream has ended. Client: `status` is that of the trailers, or the transport's own
        (UNAVAILABLE, INTERNAL, ...). Server: CANCELLED when the peer reset the stream or the connection
        broke; not called after our own `finish` or `cancel`. INTERNAL when the owner raised an
        exception."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """The backlog has exceeded the high-water mark: stop sending."""
        raise NotImplementedError

    def resume_writing(self) -> None:
        """The backlog is small again."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class NoOwner(StreamEvents):
    """The owner of a stream that has no real owner yet, or has lost it. It ignores everything."""

    __slots__ = ()

    def message_received(self, message: bytes) -> None:
        """Ignore it."""

    def half_closed(self) -> None:
        """Ignore it."""

    def closed(self, status: Status) -> None:
        """Ignore it."""

    def pause_writing(self) -> None:
        """Ignore it."""

    def resume_writing(self) -> None:
        """Ignore it."""


NO_OWNER: Final = NoOwner()


@mypyc_attr(allow_interpreted_subclasses=True)
class Stream:
    """Our side of a stream. All methods may be called at any time; after the end of the stream they do
    nothing."""

    __slots__ = ()

    def send(self, message: bytes) -> None:
        """Queue one message. It is sent in this turn of the event loop, or as soon as flow control
        allows."""
        raise NotImplementedError

    def followed(self) -> bool:
        """Whether the message after the one that is being received has arrived too, and comes next. A
        transport that cannot tell says no."""
        return False

    def finish(self, status: Status = OK) -> None:
        """After all queued messages, half-close (client) or send trailers with `status` (server)."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End the stream now with RST_STREAM(CANCEL), and drop queued messages."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Take no more messages, so that flow control stops the peer."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Take messages again."""
        raise NotImplementedError


Accept = Callable[[Stream, str, Mapping[str, str]], StreamEvents]
"""Called by a server for each new stream, with its method path and its metadata with lower-case keys;
returns the owner of the stream."""


class Server(Protocol):
    """A listening socket and its streams."""

    async def drain(self, timeout: float) -> None:
        """Accept no new streams (GOAWAY), wait up to `timeout` seconds for open ones, then cancel them."""


class Connection(Protocol):
    """The connection to one address of a server."""

    @property
    def usable(self) -> bool:
        """Whether `open` may be called now: it is connected and the server is not going away. If the server
        limits the streams of a connection, further streams wait or get another connection."""

    def open(self, path: str, metadata: Mapping[str, str], events: StreamEvents) -> Stream:
        """Start a stream. Never raises: if the connection is not usable, `closed` is called."""

    async def close(self, grace: float = 0.0) -> None:
        """Open no new streams, wait up to `grace` seconds for open ones, then close; streams still open end
        with UNAVAILABLE."""


class Transport(Protocol):
    """A gRPC implementation."""

    async def serve(self, socket_path: str, accept: Accept) -> Server:
        """Listen on a Unix socket of mode 0660, replacing an existing one."""

    async def connect(
        self, address: str, tls: ClientTls, server_name: str, timeout: float
    ) -> Connection:
        """Connect to `ip:port` within `timeout` seconds.

        Raises:
            PeerUnreachable: refused, timed out, or TLS failed; the text tells which.
        """

    def tls_edition(self, tls: ClientTls) -> int:
        """A number that grows when changed files of `tls` are valid: older connections should be
        replaced."""
