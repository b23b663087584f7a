"""The asyncio protocols that connect the state machine of `http2.connection` to a socket.

Output is collected and written once per turn of the event loop; output caused by input is written in the
turn of the input. Knows nothing of gRPC.

The classes have the methods of `asyncio.Protocol` without inheriting from it: mypyc puts the attributes of
a class with an interpreted base into a dictionary, which is slower.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from epp_client.wire.http2.client import ClientConnection
from epp_client.wire.http2.connection import Http2Connection
from epp_client.wire.http2.frames import ErrorCode
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection
from epp_client.wire.transport import Accept

MAX_UNREAD: Final = 32 * 1024 * 1024
"""Bytes in the socket's write buffer above which the connection is aborted."""
_MAX_PINGS = 2
"""Pings without other traffic in between. gRPC servers close connections with more (grpc-go:
ENHANCE_YOUR_CALM "too_many_pings"); TCP keepalive finds vanished hosts."""

WORK: Final = 256
"""Frames and messages of one connection processed per turn of the event loop: some milliseconds. A read of
256 KiB can contain ten thousand empty messages."""
CLOSING = 1.0
"""Seconds to send the last bytes of a connection; then the socket is closed without them."""
GREETING = 10.0
"""Seconds for a client to send its SETTINGS; then the connection is closed."""


class _Turn:
    """One read of a connection. `woken` is the first of the other connections that got output because of
    it: this output is written right after the read. Output caused by timers or tasks is written in a turn
    of its own."""

    def __init__(self) -> None:
        self.reading = False
        self.woken: Http2Protocol[Any] | None = None


_TURN: Final = _Turn()

C = TypeVar("C", bound=Http2Connection[Any])


class Http2Protocol(Shell, Generic[C]):
    """One socket and its `connection`, made by `make`."""

    def __init__(self, make: Callable[["Http2Protocol[C]"], C]) -> None:
        self.loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self.loop.create_future()
        """Done once the socket is closed."""
        self.transport: asyncio.Transport
        self.connection: C = make(self)
        # Whether reading is paused until all received frames are processed.
        self._holding = False
        self._again: asyncio.Handle | None = None
        # The next one that the current read has woken.
        self._next: Http2Protocol[Any] | None = None

    def wake(self) -> None:
        """Flush the output in this turn of the event loop."""
        if _TURN.reading:
            self._next, _TURN.woken = _TURN.woken, self
        else:
            self.loop.call_soon(self.flush)

    def report(self, error: Exception) -> None:
        """Log an exception that the owner of a stream raised."""
        self.loop.call_exception_handler(
            {"message": "the owner of a gRPC stream failed", "exception": error}
        )

    def flush(self) -> None:
        """Write all output to the socket."""
        connection = self.connection
        transport = self.transport
        while True:
            data = connection.take()
            # Compiled, the truth of bytes is a call, and their length is none.
            if len(data):
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
            if not len(connection.out):
                return

    def _close(self) -> None:
        """Close once the last bytes are written, or after `CLOSING` seconds."""
        if not self.transport.is_closing():
            self.transport.close()
            if not self.gone.done():
                self.loop.call_later(CLOSING, self._abort)

    def _abort(self) -> None:
        if not self.gone.done():
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, as uvloop's transports are no subclasses of asyncio's.
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
        while (woken := turn.woken) is not None:
            turn.woken, woken._next = woken._next, None
            woken.flush()
        if connection.more:
            self._share()
        elif self._holding:
            self._holding = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _share(self) -> None:
        """Process the rest of the input in another turn, so that other connections get their turn."""
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
        """Return None, so that asyncio closes the transport."""

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
        """Send GOAWAY, end the open streams and close."""
        self.connection.fail(ErrorCode.NO_ERROR, text)
        self.flush()


def as_protocol(protocol: Http2Protocol[Any]) -> asyncio.Protocol:
    """A cast: it has all methods of an asyncio.Protocol."""
    return cast("asyncio.Protocol", protocol)


class ServerProtocol(Http2Protocol[ServerConnection]):
    """The server's end. The client has `greeting` seconds to send its preface and SETTINGS."""

    def __init__(self, accept: Accept, greeting: float = GREETING) -> None:
        super().__init__(lambda own: ServerConnection(accept, own.loop.time, own, own.report))
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
    """The client's end. `ready` is done once the server's SETTINGS have been received. While calls are
    open, `interval` seconds of silence cause a PING. If nothing is received within `timeout` seconds after
    it, the connection is closed.
    """

    def __init__(self, scheme: str, authority: str, interval: float, timeout: float) -> None:
        super().__init__(
            lambda own: ClientConnection(scheme, authority, own.loop.time, own, own.report)
        )
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self._interval = interval
        self._timeout = timeout
        self._heard = True
        # Whether `ready` has a result. To ask it costs more than to read a small message.
        self._settled = False
        self._pings = 0
        self._pongs = 0
        self._timer = self.loop.call_later(interval, self._listen)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)
        if not self._settled and self.connection.settled:
            self._settled = True
            if not self.ready.done():
                self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed before any HTTP/2 SETTINGS"))
            # Mark the exception as retrieved: nobody awaits `ready` after `abandon`.
            self.ready.exception()

    def abandon(self) -> None:
        """Give up connecting."""
        self._timer.cancel()
        self.ready.cancel()
        self.connection.release()
        if hasattr(self, "transport"):
            self.transport.abort()

    def _listen(self) -> None:
        connection = self.connection
        if not self._heard and connection.streams and self._pings < _MAX_PINGS:
            self._pings += 1
            connection.ping()
            self._timer = self.loop.call_later(self._timeout, self._judge)
            return
        self._note()

    def _judge(self) -> None:
        if self._heard:
            self._note()
        else:
            self.connection.lost("the peer does not answer a PING")
            self.transport.abort()

    def _note(self) -> None:
        if self._heard and self.connection.pongs == self._pongs:
            # The peer has sent more than answers to PINGs.
            self._pings = 0
        self._pongs = self.connection.pongs
        self._heard = False
        self._timer = self.loop.call_later(self._interval, self._listen)
