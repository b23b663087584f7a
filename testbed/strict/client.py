"""Sends requests to a Gateway, and tells what came of each. It judges nothing."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from time import monotonic

import aiohttp
import h2.connection
import h2.events
import h2.exceptions

TIMEOUT = 30.0
"""Seconds for a whole answer."""


@dataclass(frozen=True)
class Answer:
    """What one request came to."""

    status: int
    """0: there was no answer, or it was cut."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By names in lower case."""
    body: bytes = b""
    error: str = ""
    """Why there was no whole answer."""
    arrivals: tuple[tuple[float, bytes], ...] = ()
    """Pieces of the body, and the seconds from the request at which each came."""

    @property
    def said(self) -> str:
        """The answer in a few words, for the text of a failure."""
        if not self.status:
            return self.error
        reason = self.headers.get("x-inference-error", "")
        return (
            f"{self.status} {reason or ' '.join(self.body[:80].decode(errors='replace').split())}"
        )

    @property
    def pod(self) -> str:
        """The Pod whose echo server answered; empty if none did."""
        if self.status != 200 or b'"pod"' not in self.body:
            return ""
        try:
            return str(json.loads(self.body)["pod"])
        except (ValueError, KeyError):
            return ""

    @property
    def endpoint(self) -> str:
        """The `ip:port` of the simulated model server that answered; empty if none did."""
        return self.headers.get("x-model-server", "")


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    host: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Send a request. No error is raised for what a gateway can do."""
    begun = monotonic()
    arrivals: list[tuple[float, bytes]] = []
    try:
        async with session.request(
            method,
            url,
            headers={"host": host, **(headers or {})},
            # aiohttp warns about large bytes.
            data=None if body is None else BytesIO(body),
            allow_redirects=False,
        ) as answer:
            async for piece in answer.content.iter_any():
                arrivals.append((monotonic() - begun, piece))
            names = {key.lower(): value for key, value in answer.headers.items()}
            whole = b"".join(piece for _, piece in arrivals)
            return Answer(answer.status, names, whole, arrivals=tuple(arrivals))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Answer(0, error=f"no whole answer: {error!r}")


async def ask_with_trailers(
    address: tuple[str, int], host: str, path: str, body: bytes, trailers: Mapping[str, str]
) -> Answer:
    """Send a POST with trailers, over HTTP/2 without TLS."""
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(*address)
            try:
                return await _Http2(reader, writer).post(host, path, body, trailers)
            finally:
                writer.close()
    except (TimeoutError, OSError, h2.exceptions.ProtocolError) as error:
        return Answer(0, error=f"no whole answer: {error!r}")


class _Http2:
    """One request on a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http2 = h2.connection.H2Connection()
        self._http2.initiate_connection()
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._ended = ""

    async def post(self, host: str, path: str, body: bytes, trailers: Mapping[str, str]) -> Answer:
        """The answer to a POST."""
        pseudo = {":method": "POST", ":scheme": "http", ":authority": host, ":path": path}
        self._http2.send_headers(1, list(pseudo.items()))
        sent = 0
        while not self._ended:
            while sent < len(body) and (room := self._room()):
                self._http2.send_data(1, body[sent : sent + room])
                sent += min(room, len(body) - sent)
                if sent == len(body):
                    self._http2.send_headers(1, list(trailers.items()), end_stream=True)
            self._writer.write(self._http2.data_to_send())
            await self._writer.drain()
            data = await self._reader.read(65_536)
            if not data:
                self._ended = "the connection was closed"
            for event in self._http2.receive_data(data):
                self._take(event)
        if self._ended != "complete":
            return Answer(0, error=f"no whole answer: {self._ended}")
        return Answer(int(self._headers[":status"]), self._headers, bytes(self._body))

    def _room(self) -> int:
        window = self._http2.local_flow_control_window(1)
        return min(window, self._http2.max_outbound_frame_size)

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self._headers = {_text(name): _text(value) for name, value in event.headers}
            case h2.events.DataReceived():
                self._body += event.data
                self._http2.acknowledge_received_data(event.flow_controlled_length, 1)
            case h2.events.StreamEnded():
                self._ended = "complete"
            case h2.events.StreamReset():
                self._ended = "the stream was reset"


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def new_session() -> aiohttp.ClientSession:
    """A session whose requests are in nobody's way."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
    )


async def together(count: int, at_once: int, one: Callable[[], Awaitable[Answer]]) -> list[Answer]:
    """`count` answers, with `at_once` requests on their way."""
    left = iter(range(count))
    answers: list[Answer] = []

    async def client() -> None:
        for _ in left:
            answers.append(await one())

    await asyncio.gather(*(client() for _ in range(at_once)))
    return answers
