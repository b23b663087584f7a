"""An installation whose sidecar is a process, and load on it while that process comes and goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio

from chaos.installation import Installation
from chaos.load import ask
from chaos.workload import Ask
from epp_client.settings import TransportName

SMALL = [Ask(n, pool, "1 KB", "", n) for n, pool in enumerate(("open", "close", "h2c", "skip"))]
FAIL_OPEN = [request for request in SMALL if request.pool != "close"]
LARGE = [Ask(n, pool, "1 MB", "", n) for n, pool in enumerate(("open", "close"))]
STREAM = Ask(0, "close", "stream", "", 39, pause_ms=100)
"""A stream of 49 tokens: about 5 s."""
PAUSE = 0.05
"""Seconds between two requests of a client: load must not take the CPU that a start needs."""


PATIENT = ("--pick-timeout", "30")
"""A picker that a busy machine holds up has not failed."""


@asynccontextmanager
async def installed(
    folder: Path, *, options: tuple[str, ...] = (), **settings: Any
) -> AsyncIterator[Installation]:
    """An installation of which nothing runs yet; all that is started ends with it."""
    installation = Installation(
        folder, options=(*PATIENT, *options), models_together=True, **settings
    )
    try:
        yield installation
    finally:
        await installation.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


class Asking:
    """Requests one after the other, four at a time, until it is told to stop."""

    def __init__(
        self, session: aiohttp.ClientSession, installation: Installation, asks: list[Ask]
    ) -> None:
        self._over = asyncio.Event()
        self.lines: list[dict[str, Any]] = []
        self._session, self._url, self._asks = session, installation.url, asks
        self._tasks = [asyncio.create_task(self._load()) for _ in range(4)]

    async def _load(self) -> None:
        while not self._over.is_set():
            for request in self._asks:
                self.lines.append(await ask(self._session, self._url, request))
                await asyncio.sleep(PAUSE)

    async def more(self, count: int) -> None:
        """Until so many more have their answers."""
        wanted = len(self.lines) + count
        async with asyncio.timeout(60):
            while len(self.lines) < wanted:
                await asyncio.sleep(0.01)

    async def stop(self) -> set[tuple[str, str]]:
        """Every kind of outcome that there was, with its reason or what was wrong."""
        self._over.set()
        await asyncio.gather(*self._tasks)
        return {(line["outcome"], line["reason"] + line["detail"]) for line in self.lines}


ALL_ANSWERED = {("answered", "")}


def kept_by(installation: Installation) -> list[Ask]:
    """What no change of workers may cost: grpcio refuses what comes late, and Envoy keeps 64 KiB of it."""
    return SMALL if installation.transport is TransportName.GRPCIO else [*SMALL, *LARGE]


async def streaming(
    session: aiohttp.ClientSession, installation: Installation
) -> "asyncio.Task[dict[str, Any]]":
    """A stream that the sidecar is relaying."""
    task = asyncio.create_task(ask(session, installation.url, STREAM))
    async with asyncio.timeout(60):
        while not (await installation.metrics()).get("epp_client_in_flight"):
            await asyncio.sleep(0.02)
    return task


async def status(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.get(url) as answer:
        return answer.status, await answer.text()


async def says_starting(session: aiohttp.ClientSession, installation: Installation) -> bool:
    """Whether a process that knows no pools yet has the admin page."""
    try:
        return (await status(session, f"http://{installation.admin}/readyz"))[0] == 503
    except aiohttp.ClientError:
        return False


SYNC_PATIENCE = 1.0
"""Seconds that an impatient start waits for its pools before it looks who serves: a fifth of the usual."""


def impatient(installation: Installation, **more: float) -> None:
    """Its sidecars wait less for their pools; `more` are other waits of a start."""
    waits = {"SYNC_PATIENCE": SYNC_PATIENCE, **more}
    arguments = [f"{name}={seconds}" for name, seconds in waits.items()]
    installation.program = ["tests.e2e.impatient", *arguments]
