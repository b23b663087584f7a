"""NativeConnection: calls to one address of a server, over as many HTTP/2 connections as they need.

Servers limit the streams of one connection (some grpc-go installations to 100). A call without a slot waits
here, as in every gRPC library, while another connection is opened. Never reads a message.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from epp_client.errors import PeerUnreachable
from epp_client.wire.http2.client_stream import ClientStream
from epp_client.wire.http2.stream import HIGH_WATER
from epp_client.wire.protocol import CLOSING, ClientProtocol
from epp_client.wire.status import OK, UNAVAILABLE, Status
from epp_client.wire.transport import Stream, StreamEvents

MAX_CONNECTIONS = 64
"""Connections to one address. Above it calls wait for a slot."""
MAX_WAITING = 10_000
"""Calls that may wait for a slot."""
SPARE_SECONDS = 30.0
"""Seconds that an additional connection is kept without calls."""

Dial = Callable[[], Awaitable[ClientProtocol]]


class NativeConnection:
    """See `Connection`. `dial` opens another HTTP/2 connection to the same address, or raises
    PeerUnreachable."""

    def __init__(self, first: ClientProtocol, dial: Dial) -> None:
        self._first = first
        self._more: list[ClientProtocol] = []
        self._dial = dial
        self._dialing: asyncio.Task[None] | None = None
        self._dial_useless = False
        """Whether the last attempt brought no slot, so that another one waits until a call has ended."""
        self._waiting: OrderedDict[_WaitingStream, None] = OrderedDict()
        self._tidying: asyncio.TimerHandle | None = None
        self._closing = False
        first.gone.add_done_callback(lambda _: self._lost(first))

    @property
    def usable(self) -> bool:
        """See `Connection.usable`."""
        if self._closing:
            return False
        return self._first.connection.usable or any(
            protocol.connection.alive for protocol in self._protocols
        )

    @property
    def _protocols(self) -> list[ClientProtocol]:
        return [self._first, *self._more]

    def open(self, path: str, metadata: Mapping[str, str], events: StreamEvents) -> Stream:
        """See `Connection.open`."""
        connection = self._first.connection
        if connection.usable and not self._waiting and not self._closing:
            return connection.open(path, metadata, events)
        stream = _WaitingStream(path, metadata, events, self._waiting)
        if not self.usable or len(self._waiting) >= MAX_WAITING:
            why = Status(UNAVAILABLE, "the connection accepts no more streams")
            self._first.loop.call_soon(stream.end, why)
            return stream
        self._waiting[stream] = None
        self._serve()
        return stream.opened or stream

    def _serve(self) -> None:
        """Give free slots to waiting calls, and open another connection if calls still wait."""
        for protocol in self._protocols:
            connection = protocol.connection
            while self._waiting and connection.usable:
                stream, _ = self._waiting.popitem(last=False)
                self._dial_useless = False
                stream.attach(connection.open(stream.path, stream.metadata, stream.events))
            connection.on_room = self._serve if self._waiting else None
        if not self._waiting or self._dialing is not None:
            return
        if self._dial_useless and any(known.connection.alive for known in self._protocols):
            return
        if len(self._more) < MAX_CONNECTIONS - 1:
            self._dialing = self._first.loop.create_task(self._dial_more())

    async def _dial_more(self) -> None:
        try:
            protocol = await self._dial()
        except PeerUnreachable as error:
            self._dial_useless = any(known.connection.alive for known in self._protocols)
            if not self._dial_useless:
                self._give_up(str(error))
            return
        finally:
            self._dialing = None
        if not protocol.connection.usable:
            self._dial_useless = True
            protocol.end("no streams are accepted")
            return
        if self._first.gone.done():
            self._first = protocol
        else:
            self._more.append(protocol)
        protocol.gone.add_done_callback(lambda _: self._lost(protocol))
        if self._tidying is None:
            self._tidying = self._first.loop.call_later(SPARE_SECONDS, self._tidy)
        self._serve()

    def _lost(self, protocol: ClientProtocol) -> None:
        if protocol in self._more:
            self._more.remove(protocol)
        elif protocol is self._first and self._more:
            self._first = self._more.pop(0)
        self._dial_useless = False
        if self._waiting and not self._closing:
            self._serve()

    def _tidy(self) -> None:
        """Close additional connections without calls."""
        self._tidying = None
        for protocol in list(self._more):
            if not protocol.connection.streams:
                protocol.end("not needed any more")
        if self._more and not self._closing:
            self._tidying = self._first.loop.call_later(SPARE_SECONDS, self._tidy)

    def _give_up(self, text: str) -> None:
        while self._waiting:
            stream, _ = self._waiting.popitem(last=False)
            stream.end(Status(UNAVAILABLE, text))

    async def close(self, grace: float = 0.0) -> None:
        """See `Connection.close`."""
        self._closing = True
        if self._tidying is not None:
            self._tidying.cancel()
        if self._dialing is not None:
            self._dialing.cancel()
        self._give_up("the connection is closed by this side")
        protocols = self._protocols
        try:
            for protocol in protocols:
                protocol.connection.drain()
            if grace:
                await asyncio.wait([protocol.gone for protocol in protocols], timeout=grace)
        finally:
            for protocol in protocols:
                if not protocol.gone.done():
                    protocol.end("closed by this side")
        await asyncio.wait([protocol.gone for protocol in protocols], timeout=CLOSING)
        for protocol in protocols:
            protocol.transport.abort()


class _WaitingStream(Stream):
    """A stream without a slot: keeps its messages, and forwards everything once it is `opened`."""

    def __init__(
        self,
        path: str,
        metadata: Mapping[str, str],
        events: StreamEvents,
        waiting: "OrderedDict[_WaitingStream, None]",
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.events = events
        self.opened: Stream | None = None
        self._waiting = waiting
        self._messages: list[bytes] = []
        self._size = 0
        self._finished = False
        self._reading = True
        self._over = False

    def attach(self, stream: ClientStream) -> None:
        """Use the slot: send what was queued."""
        self.opened = stream
        if not self._reading:
            stream.pause_reading()
        paused, messages = self._size > HIGH_WATER, self._messages
        self._messages, self._size = [], 0
        for message in messages:
            stream.send(message)
        if self._finished:
            stream.finish()
        if paused and not stream.paused:
            self.events.resume_writing()

    def end(self, status: Status) -> None:
        """End the stream without a slot."""
        if not self._over:
            self._over = True
            self._messages.clear()
            self.events.closed(status)

    def send(self, message: bytes) -> None:
        if self.opened is not None:
            self.opened.send(message)
        elif not self._over and not self._finished:
            before = self._size
            self._messages.append(message)
            self._size += len(message)
            if before <= HIGH_WATER < self._size:
                self.events.pause_writing()

    def finish(self, status: Status = OK) -> None:
        if self.opened is not None:
            self.opened.finish(status)
        self._finished = True

    def cancel(self) -> None:
        self._over = True
        self._messages.clear()
        self._waiting.pop(self, None)
        if self.opened is not None:
            self.opened.cancel()

    def pause_reading(self) -> None:
        self._reading = False
        if self.opened is not None:
            self.opened.pause_reading()

    def resume_reading(self) -> None:
        self._reading = True
        if self.opened is not None:
            self.opened.resume_reading()
