"""Limits on the time and number of the admin page's clients, which aiohttp does not have.

aiohttp waits without limit for a first request, and for a client that does not read its response. Nothing
here looks at requests.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler

MAX_CONNECTIONS = 256
"""Connections open at once."""
REQUEST_SECONDS = 10.0
"""Seconds from the connection to the end of the first request's headers. aiohttp's keep-alive limits later
ones."""
READING_SECONDS = 30.0
"""Seconds that a response which does not fit into the socket may wait for room."""


class Door:
    """Creates the protocol of each connection: the one that `make` returns, with the limits above."""

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        self._make = make
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        return _Visitor(self, self._make)


@web.middleware
async def punctual(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Stops the timer of the connection once its request has arrived."""
    transport = request.transport
    if transport is not None and isinstance(visitor := transport.get_protocol(), _Visitor):
        visitor.stop_timer()
    return await handler(request)


class _Visitor(asyncio.Protocol):
    """One connection. It forwards everything to aiohttp's handler."""

    def __init__(self, door: Door, make: Callable[[], asyncio.Protocol]) -> None:
        self._door = door
        self._make = make
        self._handler: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._door.open >= MAX_CONNECTIONS:
            self._transport.abort()
            return
        self._door.open += 1
        self._handler = self._make()
        self._handler.connection_made(transport)
        self._start_timer(REQUEST_SECONDS)

    def _start_timer(self, seconds: float) -> None:
        self.stop_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._transport.abort)

    def stop_timer(self) -> None:
        """Cancel the timer that would abort the connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if self._handler is not None:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received() if self._handler is not None else None

    def pause_writing(self) -> None:
        self._start_timer(READING_SECONDS)
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        self.stop_timer()
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_timer()
        if self._handler is not None:
            self._door.open -= 1
            self._handler.connection_lost(exc)
