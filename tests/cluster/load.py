"""A steady load on one pool: short requests and streams, each answer kept. It judges nothing itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

PAUSE = 0.02
"""Seconds that a client waits between two requests."""
TOKENS, TOKEN_MS = 20, 25
"""A stream lasts half a second, so that some are open at every moment."""
CHANGE_TIMEOUT = 20.0
"""Seconds within which a change must be seen in the answers."""
_CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@dataclass(frozen=True)
class Answer:
    """What one request came to."""

    served_by: str
    """`ip:port`, or empty."""
    version: str
    """HTTP version between Envoy and the model server."""
    failure: str
    """Empty when the request got its whole answer."""
    headers: dict[str, str] = field(default_factory=dict, compare=False)


@dataclass
class Load:
    """A running load; `answers` grows."""

    url: str
    headers: dict[str, str]
    answers: list[Answer] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def failures(self) -> list[str]:
        """Of all requests so far."""
        return [answer.failure for answer in self.answers if answer.failure]

    async def until(
        self,
        seen: Callable[[list[Answer]], bool],
        last: int = 24,
        patience: float = CHANGE_TIMEOUT,
    ) -> None:
        """Wait until the newest `last` answers show a change; all of them came after this call.

        Raises:
            AssertionError: they did not within `patience` seconds; the text has what came last.
        """
        start = len(self.answers)
        try:
            async with asyncio.timeout(patience):
                while len(self.answers) < start + last or not seen(self.answers[-last:]):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError as error:
            raise AssertionError(f"not seen in {self.answers[-last:]}") from error

    async def until_served_by(self, *endpoints: str, patience: float = CHANGE_TIMEOUT) -> None:
        """Wait until exactly these serve."""
        await self.until(
            lambda answers: {a.served_by for a in answers} == set(endpoints), patience=patience
        )

    def add(self, answer: Answer) -> None:
        """One more."""
        self.answers.append(answer)
        self._arrived.set()


@asynccontextmanager
async def steady_load(
    url: str, *, clients: int = 6, streams: int = 3, headers: dict[str, str] | None = None
) -> AsyncIterator[Load]:
    """Ask for completions until the block ends; requests that are on their way then still count."""
    load, over = Load(url, headers or {}), asyncio.Event()
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def client(stream: bool) -> None:
            while not over.is_set():
                load.add(await _ask(session, load, stream))
                await asyncio.sleep(PAUSE)

        tasks = [asyncio.create_task(client(n < streams)) for n in range(clients + streams)]
        try:
            yield load
        finally:
            over.set()
            done, _ = await asyncio.wait(tasks, timeout=40)
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*done)


async def _ask(session: aiohttp.ClientSession, load: Load, stream: bool) -> Answer:
    body = {**_CHAT, "stream": stream, "max_tokens": TOKENS, "token_interval_ms": TOKEN_MS}
    try:
        async with session.post(
            f"{load.url}/v1/chat/completions", json=body, headers=load.headers
        ) as answer:
            text = await answer.text()
            headers = {key.lower(): value for key, value in answer.headers.items()}
            failure = ""
            if answer.status != 200:
                failure = f"{answer.status} {headers.get('x-inference-error')} {text[:200]}"
            elif stream and not text.endswith("data: [DONE]\n\n"):
                failure = f"cut after {len(text)} bytes"
            served_by = headers.get("x-model-server", "")
            return Answer(served_by, headers.get("x-http-version", ""), failure, headers)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer("", "", repr(error))
