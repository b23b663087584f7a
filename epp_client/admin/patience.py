"""How long a client of the admin page may take, and how many there may be: what aiohttp leaves open.

Its handler waits for ever for a first request, and for a client that does not read its answer. Knows
nothing of what is asked.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler

MAX_CONNECTIONS = 256
"""At once: probes, scrapers and people are a handful."""
REQUEST_SECONDS = 10.0
"""From the connection to the end of the first request's headers; later ones are aiohttp's keep-alive's."""
READING_SECONDS = 30.0
"""For an answer that does not fit into the socket, until there is room again."""


class Door:
    """Makes the protocol of each connection: `make`'s, behind the bounds above."""

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        self._make = make
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        return _Visitor(self, self._make)


@web.middleware
async def punctual(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tells the visitor's clock that the request has come."""
    transport = request.transport
    if transport is not None and isinstance(visitor := transport.get_protocol(), _Visitor):
        visitor.asked()
    return await handler(request)


class _Visitor(asyncio.Protocol):
    """One connection; everything goes to aiohttp's own handler."""

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
        self._wait(REQUEST_SECONDS)

    def _wait(self, seconds: float) -> None:
        self.asked()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._transport.abort)

    def asked(self) -> None:
        """What we waited for has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if self._handler is not None:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received() if self._handler is not None else None

    def pause_writing(self) -> None:
        self._wait(READING_SECONDS)
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        self.asked()
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.asked()
        if self._handler is not None:
            self._door.open -= 1
            self._handler.connection_lost(exc)
