"""An HTTP/2 connection that records what arrives on each stream, repeated fields and trailers included."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.transparency.kinds import Fields
from tests.transparency.received import Received


class Http2:
    """One connection, of a client or of a server."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool
    ) -> None:
        self._reader, self._writer = reader, writer
        self._streams: dict[int, Received] = {}
        self._moved = asyncio.Condition()
        self._lost = False
        config = h2.config.H2Configuration(
            client_side=client,
            header_encoding="latin-1",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()

    async def receive(
        self, data: bytes = b"", on_body: asyncio.Event | None = None
    ) -> AsyncIterator[tuple[int, Received]]:
        """Messages as they end, whole or cut, and what is open when the connection ends."""
        await self._flush()
        try:
            while data or (data := await self._reader.read(65_536)):
                for event in self._h2.receive_data(data):
                    if (ended := self._take(event, on_body)) is not None:
                        yield ended, self._streams.pop(ended)
                data = b""
                await self._flush()
                async with self._moved:
                    self._moved.notify_all()
        except (ConnectionError, h2.exceptions.ProtocolError):
            pass
        finally:
            self._lost = True
            async with self._moved:
                self._moved.notify_all()
        for stream, received in list(self._streams.items()):
            yield stream, received

    def _take(self, event: h2.events.Event, on_body: asyncio.Event | None) -> int | None:
        """Record one event; the stream that ended by it."""
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived():
                self._streams[event.stream_id] = _begun(
                    _text(event.headers), self._interim(event.stream_id)
                )
            case h2.events.InformationalResponseReceived():
                received = self._streams.setdefault(event.stream_id, Received({}, (), "h2"))
                received.interim += (dict(_text(event.headers))[":status"],)
            case h2.events.TrailersReceived():
                self._streams[event.stream_id].trailers = _text(event.headers)
            case h2.events.DataReceived():
                self._streams[event.stream_id].body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if on_body is not None and event.data:
                    on_body.set()
            case h2.events.StreamEnded():
                self._streams[event.stream_id].end = "complete"
                return event.stream_id
            case h2.events.StreamReset() if event.stream_id in self._streams:
                return event.stream_id
        return None

    def _interim(self, stream: int) -> tuple[str, ...]:
        return self._streams[stream].interim if stream in self._streams else ()

    async def send(
        self, stream: int, fields: Fields, body: tuple[bytes, ...], trailers: Fields,
        before_last: Callable[[], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        """Send a message, as fast as the peer's windows allow; its last piece after `before_last`.

        Raises:
            ConnectionError: the stream or the connection ended before.
        """
        try:
            self._h2.send_headers(stream, list(fields), end_stream=not body and not trailers)
            await self._flush()
            for number, piece in enumerate(body):
                last = number == len(body) - 1
                if last and before_last is not None:
                    await before_last()
                await self._send_piece(stream, piece, end=last and not trailers)
            if trailers:
                self._h2.send_headers(stream, list(trailers), end_stream=True)
                await self._flush()
        except (h2.exceptions.ProtocolError, KeyError) as error:
            raise ConnectionError(str(error)) from error

    async def _send_piece(self, stream: int, piece: bytes, *, end: bool) -> None:
        at = 0
        while at < len(piece) or (end and not piece):
            async with self._moved:
                await self._moved.wait_for(
                    lambda: self._lost or self._h2.local_flow_control_window(stream) > 0
                )
            if self._lost:
                raise ConnectionError("the connection ended")
            room = self._h2.local_flow_control_window(stream)
            size = min(room, self._h2.max_outbound_frame_size, len(piece) - at)
            self._h2.send_data(stream, piece[at : at + size], end and at + size == len(piece))
            at += size
            await self._flush()
            if not piece:
                return

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()


def _text(fields: Iterable[Any]) -> Fields:
    """As h2 gives fields with a `header_encoding`, whatever its types say."""
    return tuple((name, value) for name, value in fields)


def _begun(fields: Fields, interim: tuple[str, ...]) -> Received:
    pseudo = {name[1:]: value for name, value in fields if name.startswith(":")}
    headers = tuple((name, value) for name, value in fields if not name.startswith(":"))
    if "status" in pseudo:
        start = {"status": pseudo["status"]}
    else:
        start = {"method": pseudo["method"], "path": pseudo["path"], "host": pseudo["authority"]}
    return Received(start, headers, "h2", interim=interim)
