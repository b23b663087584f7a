"""The interface between the relay and a gRPC transport: bidirectional streams of bytes messages.

Two transports implement it: `grpcio` and our own wire. Everything is callbacks on one event loop,
like `asyncio.Protocol`: no task and no queue per stream is needed to relay a message. Messages are
whole gRPC messages, uncompressed, without their 5-byte prefix.

`StreamEvents` and `Stream` are classes and no Protocols, because each message goes through several of
their methods: compiled, a call of a class's method costs a tenth of one that is looked up by its name.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from epp_client.tls_settings import ClientTls
from epp_client.wire.status import OK, Status


@mypyc_attr(allow_interpreted_subclasses=True)
class StreamEvents:
    """What the owner of a stream is told. After `closed` nothing more is called."""

    __slots__ = ()

    def message_received(self, message: bytes) -> None:
        """One whole message came."""
        raise NotImplementedError

    def half_closed(self) -> None:
        """The peer will send nothing more (server side: Envoy has half-closed)."""
        raise NotImplementedError

    def closed(self, status: Status) -> None:
        """The stream is over. Client side: the status in the trailers, or the transport's own
        (UNAVAILABLE, INTERNAL, ...). Server side: CANCELLED when the peer reset the stream or the
        connection broke; not called after our own `finish`/`cancel`. INTERNAL when the owner raised."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """More than the high-water mark is waiting to be sent: stop producing."""
        raise NotImplementedError

    def resume_writing(self) -> None:
        """The backlog has gone down again."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class NoOwner(StreamEvents):
    """Owner of a stream that has none yet, or none any more."""

    __slots__ = ()

    def message_received(self, message: bytes) -> None:
        """Nobody reads it."""

    def half_closed(self) -> None:
        """Nobody waits for it."""

    def closed(self, status: Status) -> None:
        """Nobody waits for it."""

    def pause_writing(self) -> None:
        """Nobody writes."""

    def resume_writing(self) -> None:
        """Nobody writes."""


NO_OWNER: Final = NoOwner()


@mypyc_attr(allow_interpreted_subclasses=True)
class Stream:
    """One open stream, from our side. All methods may be called at any time; after the end of the
    stream they do nothing."""

    __slots__ = ()

    def send(self, message: bytes) -> None:
        """Queue one message; it is written in this turn of the event loop or when flow control
        allows."""
        raise NotImplementedError

    def finish(self, status: Status = OK) -> None:
        """Client: half-close. Server: send trailers with `status`, after all queued messages."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End now, drop what is queued: RST_STREAM(CANCEL)."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Let the peer run into flow control."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Take messages again."""
        raise NotImplementedError


Accept = Callable[[Stream, str, Mapping[str, str]], StreamEvents]
"""Server: (stream, method path, initial metadata with lower-case keys) -> owner of the stream."""


class Server(Protocol):
    """A listening socket and its streams."""

    async def drain(self, timeout: float) -> None:
        """Take no new streams (GOAWAY), wait for the open ones up to `timeout` s, then cancel."""


class Connection(Protocol):
    """One connection to a server's address."""

    @property
    def usable(self) -> bool:
        """Whether `open` may be called now: connected and not going away. A server that limits the streams
        of a connection makes no difference: what it has no slot for waits, or gets another connection."""

    def open(self, path: str, metadata: Mapping[str, str], events: StreamEvents) -> Stream:
        """Start a stream. Never raises: a connection that is not usable reports `closed`."""

    async def close(self, grace: float = 0.0) -> None:
        """Take no new streams, wait for the open ones up to `grace` seconds, then close; what is
        still open ends with UNAVAILABLE."""


class Transport(Protocol):
    """A way to speak gRPC."""

    async def serve(self, socket_path: str, accept: Accept) -> Server:
        """Listen on a Unix socket (mode 0660, a stale socket file is replaced)."""

    async def connect(
        self, address: str, tls: ClientTls, server_name: str, timeout: float
    ) -> Connection:
        """Connect to `ip:port` within `timeout` seconds.

        Raises:
            PeerUnreachable: refused, timed out, TLS failed; the text says which.
        """

    def tls_edition(self, tls: ClientTls) -> int:
        """A number that moves when the files of `tls` have changed and can be used: connections that
        were made before are worth replacing."""
