"""The asyncio shell of a connection: joins a state machine of `connection.py` to a socket.

Writes are collected and leave once per turn of the event loop; one that answers input leaves in the
turn in which the input came. Knows nothing of gRPC.

The classes have the methods of `asyncio.Protocol` and do not inherit from it: compiled, a class with a
base that is not compiled has its attributes in a dictionary. `as_protocol` is for the type checker.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from epp_client.wire.http2.client import ClientConnection
from epp_client.wire.http2.connection import Http2Connection
from epp_client.wire.http2.frames import ErrorCode
from epp_client.wire.http2.server import ServerConnection
from epp_client.wire.transport import Accept

MAX_UNREAD: Final = 32 * 1024 * 1024
"""Bytes that wait in the socket's buffer; a peer that lets more pile up is cut off."""
_MOST_PINGS = 2
"""Pings in one silence. gRPC servers end connections that ping more often than they answer calls
(grpc-go: ENHANCE_YOUR_CALM "too_many_pings"); hosts that vanish are the kernel's keepalive's to find."""

WORK: Final = 256
"""Frames and messages of one connection that are looked at in one turn of the event loop, which takes some
milliseconds. A read of 256 KiB can be ten thousand empty messages."""
CLOSING = 1.0
"""Seconds for the last bytes of a connection that is being closed; then the socket goes without them."""
GREETING = 10.0
"""Seconds; a client that has not sent its SETTINGS by then holds a descriptor for nothing."""


class _Turn:
    """A read of one connection, and what others have to send because of it: it leaves with the read's
    own answers, at once. Reads do not nest; what is woken by a timer or a task waits for its own turn."""

    def __init__(self) -> None:
        self.reading = False
        self.woken: list[Http2Protocol[Any]] = []


_TURN: Final = _Turn()

C = TypeVar("C", bound=Http2Connection[Any])


class Http2Protocol(Generic[C]):
    """One socket and its `connection`, which the subclass makes."""

    def __init__(self, make: Callable[["Http2Protocol[C]"], C]) -> None:
        self.loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self.loop.create_future()
        """Done when the socket is closed."""
        self.transport: asyncio.Transport
        self.connection: C = make(self)
        # nothing is read until what has come is done
        self._holding = False
        self._again: asyncio.Handle | None = None

    def wake(self) -> None:
        """Flush in this turn of the loop."""
        if _TURN.reading:
            _TURN.woken.append(self)
        else:
            self.loop.call_soon(self.flush)

    def report(self, error: Exception) -> None:
        """Show what an owner of a stream raised."""
        self.loop.call_exception_handler(
            {"message": "the owner of a gRPC stream failed", "exception": error}
        )

    def flush(self) -> None:
        """Hand everything that waits to the socket."""
        connection = self.connection
        transport = self.transport
        while True:
            if data := connection.take():
                transport.write(data)
            if connection.closed:
                self._close()
                return
            if not connection.flowing:
                if transport.get_write_buffer_size() > MAX_UNREAD:
                    transport.abort()
                return
            if not connection.blocked:
                return
            connection.pump()
            if not connection.out:
                return

    def _close(self) -> None:
        """Close once the last bytes are out; a peer that does not take them does not keep the socket."""
        if not self.transport.is_closing():
            self.transport.close()
            if not self.gone.done():
                self.loop.call_later(CLOSING, self._abort)

    def _abort(self) -> None:
        if not self.gone.done():
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclasses
        self.transport = cast("asyncio.Transport", transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        connection, turn = self.connection, _TURN
        turn.reading = True
        try:
            connection.receive(data, WORK)
        finally:
            turn.reading = False
        self.flush()
        while turn.woken:
            turn.woken.pop().flush()
        if connection.more:
            self._share()
        elif self._holding:
            self._holding = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _share(self) -> None:
        """Leave the rest of what came for another turn: other connections have theirs in between."""
        if not self._holding:
            self._holding = True
            if not self.transport.is_closing():
                self.transport.pause_reading()
        if self._again is None:
            self._again = self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._again = None
        if not self.gone.done():
            self.data_received(b"")

    def eof_received(self) -> None:
        """The peer has closed its half: there is no use for ours."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.lost(f"the connection broke: {exc or 'closed by the peer'}")
        self.connection.release()
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self.connection.flowing = False

    def resume_writing(self) -> None:
        connection = self.connection
        connection.flowing = True
        connection.pump()
        self.flush()

    def end(self, text: str) -> None:
        """Close now: GOAWAY, and open streams end."""
        self.connection.fail(ErrorCode.NO_ERROR, text)
        self.flush()


def as_protocol(protocol: Http2Protocol[Any]) -> asyncio.Protocol:
    """What asyncio takes for one."""
    return cast("asyncio.Protocol", protocol)


class ServerProtocol(Http2Protocol[ServerConnection]):
    """The end that a client has connected to; it has `greeting` seconds to say that it speaks HTTP/2."""

    def __init__(self, accept: Accept, greeting: float = GREETING) -> None:
        super().__init__(lambda own: ServerConnection(accept, own.loop.time, own.wake, own.report))
        self._greeting = greeting
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._timer = self.loop.call_later(self._greeting, self._greeted)
        super().connection_made(transport)

    def _greeted(self) -> None:
        if not self.connection.settled:
            self.end("no HTTP/2 preface")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)


class ClientProtocol(Http2Protocol[ClientConnection]):
    """The end that has connected. `ready` is done once the peer has shown that it speaks HTTP/2.

    While calls are open, a silence of `interval` seconds is answered with a PING, and one that stays
    unanswered for `timeout` seconds ends the connection.
    """

    def __init__(self, scheme: str, authority: str, interval: float, timeout: float) -> None:
        super().__init__(
            lambda own: ClientConnection(scheme, authority, own.loop.time, own.wake, own.report)
        )
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self._interval = interval
        self._timeout = timeout
        self._heard = True
        self._pings = 0
        self._pongs = 0
        self._timer = self.loop.call_later(interval, self._listen)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)
        if not self.ready.done() and self.connection.settled:
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed before any HTTP/2 SETTINGS"))
            # nobody waits for it when connecting was given up
            self.ready.exception()

    def abandon(self) -> None:
        """Connecting was given up."""
        self._timer.cancel()
        self.ready.cancel()
        self.connection.release()
        if hasattr(self, "transport"):
            self.transport.abort()

    def _listen(self) -> None:
        connection = self.connection
        if not self._heard and connection.streams and self._pings < _MOST_PINGS:
            self._pings += 1
            connection.ping()
            self._timer = self.loop.call_later(self._timeout, self._judge)
            return
        self._note()

    def _judge(self) -> None:
        if self._heard:
            self._note()
        else:
            self.connection.lost("the peer answers no PING")
            self.transport.abort()

    def _note(self) -> None:
        if self._heard and self.connection.pongs == self._pongs:
            # it said more than that it is alive
            self._pings = 0
        self._pongs = self.connection.pongs
        self._heard = False
        self._timer = self.loop.call_later(self._interval, self._listen)
