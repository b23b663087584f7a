"""The interface between the relay and a gRPC transport: bidirectional streams of bytes messages.

Two transports implement it: `grpcio` and our own wire. Everything is callbacks on one event loop,
like `asyncio.Protocol`: no task and no queue per stream is needed to relay a message. Messages are
whole gRPC messages, uncompressed, without their 5-byte prefix.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from epp_client.pool.settings import PickerTls


class Status(NamedTuple):
    """A gRPC status: what a stream ended with."""

    code: int
    message: str = ""


OK = Status(0)


class StreamEvents(Protocol):
    """What the owner of a stream is told. After `closed` nothing more is called."""

    def message_received(self, message: bytes) -> None:
        """One whole message came."""

    def half_closed(self) -> None:
        """The peer will send nothing more (server side: Envoy has half-closed)."""

    def closed(self, status: Status) -> None:
        """The stream is over. Client side: the status in the trailers, or the transport's own
        (UNAVAILABLE, INTERNAL, ...). Server side: CANCELLED when the peer reset the stream or the
        connection broke; not called after our own `finish`/`cancel`."""

    def pause_writing(self) -> None:
        """More than the high-water mark is waiting to be sent: stop producing."""

    def resume_writing(self) -> None:
        """The backlog has gone down again."""


class Stream(Protocol):
    """One open stream, from our side. All methods may be called at any time; after the end of the
    stream they do nothing."""

    def send(self, message: bytes) -> None:
        """Queue one message; it is written in this turn of the event loop or when flow control
        allows."""

    def finish(self, status: Status = OK) -> None:
        """Client: half-close. Server: send trailers with `status`, after all queued messages."""

    def cancel(self) -> None:
        """End now, drop what is queued: RST_STREAM(CANCEL)."""

    def pause_reading(self) -> None:
        """Let the peer run into flow control."""

    def resume_reading(self) -> None:
        """Take messages again."""


Accept = Callable[[Stream, str, Mapping[str, str]], StreamEvents]
"""Server: (stream, method path, initial metadata with lower-case keys) -> owner of the stream."""


class Server(Protocol):
    """A listening socket and its streams."""

    async def drain(self, timeout: float) -> None:
        """Take no new streams (GOAWAY), wait for the open ones up to `timeout` s, then cancel."""


class Connection(Protocol):
    """One connection to a picker address."""

    @property
    def usable(self) -> bool:
        """Whether `open` may be called now: connected, not going away, a stream slot is free."""

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
        self, address: str, tls: PickerTls, server_name: str, timeout: float
    ) -> Connection:
        """Connect to `ip:port` within `timeout` seconds.

        Raises:
            PickerUnreachable: refused, timed out, TLS failed; the text says which.
        """
