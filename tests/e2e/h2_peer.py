"""HTTP/2 peers that see and send trailers, which neither httpx nor ASGI servers do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

Fields = dict[str, str]


@dataclass
class Message:
    """One side of an exchange."""

    headers: Fields = field(default_factory=dict)
    body: bytes = b""
    trailers: Fields = field(default_factory=dict)


class _Peer:
    """One connection that turns h2's events into messages."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool
    ) -> None:
        self.reader, self.writer = reader, writer
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.messages: dict[int, Message] = {}

    async def send(
        self,
        stream: int,
        headers: list[tuple[str, str]],
        message: Message,
        before_trailers: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.h2.send_headers(stream, [*headers, *message.headers.items()])
        # Small bodies: within the initial window.
        self.h2.send_data(stream, message.body, end_stream=not message.trailers)
        if message.trailers:
            if before_trailers is not None:
                await self.flush()
                await before_trailers()
            self.h2.send_headers(stream, list(message.trailers.items()), end_stream=True)
        await self.flush()

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def receive(
        self, on_data: Callable[[Message], None] | None = None
    ) -> AsyncIterator[tuple[int, Message]]:
        """Whole messages as they end. `on_data` is called with each one that gets a part of its body."""
        await self.flush()
        while data := await self.reader.read(65_536):
            for event in self.h2.receive_data(data):
                match event:
                    case h2.events.RequestReceived() | h2.events.ResponseReceived():
                        self._message(event.stream_id).headers = dict[Any, Any](event.headers)
                    case h2.events.TrailersReceived():
                        self._message(event.stream_id).trailers = dict[Any, Any](event.headers)
                    case h2.events.DataReceived():
                        message = self._message(event.stream_id)
                        message.body += event.data
                        if on_data is not None:
                            on_data(message)
                        self.h2.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    case h2.events.StreamEnded():
                        yield event.stream_id, self.messages.pop(event.stream_id)
                    case h2.events.StreamReset():
                        raise ConnectionError(f"the stream was reset: {event.error_code}")
            await self.flush()

    def _message(self, stream: int) -> Message:
        return self.messages.setdefault(stream, Message())


@asynccontextmanager
async def h2_server(
    host: str, answer: Message, on_data: Callable[[Message], None] | None = None
) -> AsyncIterator[tuple[int, list[Message]]]:
    """Serve h2c on any port; gives every request `answer`. The port, and the requests seen. `on_data` is
    called with each request that gets a part of its body."""
    seen: list[Message] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _Peer(reader, writer, client=False)
        try:
            async for stream, request in peer.receive(on_data):
                seen.append(request)
                await peer.send(stream, [(":status", "200")], answer)
        except (ConnectionError, h2.exceptions.ProtocolError):
            # the GOAWAY, when the client has broken the protocol
            await peer.flush()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


async def h2_request(
    host: str,
    port: int,
    path: str,
    request: Message,
    before_trailers: Callable[[], Awaitable[object]] | None = None,
) -> Message:
    """POST over h2c with prior knowledge, trailers and all. Trailers are sent after `before_trailers`."""
    reader, writer = await asyncio.open_connection(host, port)
    peer = _Peer(reader, writer, client=True)
    pseudo = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", f"{host}:{port}"),
        (":path", path),
        ("te", "trailers"),
    ]
    try:
        async with asyncio.timeout(60):
            await peer.send(1, pseudo, request, before_trailers)
            async for _, answer in peer.receive():
                return answer
        raise ConnectionError("the connection ended before its answer")
    finally:
        writer.close()
