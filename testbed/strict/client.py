"""Sends requests to a Gateway, and tells what came of each. It judges nothing."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from time import monotonic

import aiohttp

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
