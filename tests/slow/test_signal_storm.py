"""Storms of signals under load, with the real Envoy: no request is lost, and one process is left."""

import asyncio
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chaos.installation import Installation
from chaos.load import ask
from chaos.workload import Ask
from epp_client import signals
from epp_client.settings import TransportName
from testbed.looks import writers
from tests.e2e.lifecycle import (
    ALL_ANSWERED,
    FAIL_OPEN,
    LARGE,
    PAUSE,
    installed,
    session,
)

__all__ = ["session"]

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

SIGNALS = 12
LONG = Ask(0, "open", "stream", "", 39, pause_ms=100)
"""A stream of 49 tokens: about 5 s."""
BOUND = 120.0
"""Seconds for an answer: the machine may be busy. FailOpen, so that a picker that is slow costs nothing."""


class Load:
    """Clients that ask one thing after the other, until they are told to stop."""

    def __init__(self, client: aiohttp.ClientSession, url: str, asks: list[list[Ask]]) -> None:
        self._client, self._url = client, url
        self._over = asyncio.Event()
        self.lines: list[dict[str, Any]] = []
        self._tasks = [asyncio.create_task(self._go_on(some)) for some in asks]

    async def _go_on(self, asks: list[Ask]) -> None:
        while not self._over.is_set():
            for one in asks:
                self.lines.append(await ask(self._client, self._url, one, BOUND))
                await asyncio.sleep(PAUSE)

    async def more(self, count: int) -> None:
        """Until so many more have their answers."""
        wanted = len(self.lines) + count
        async with asyncio.timeout(300):
            while len(self.lines) < wanted:
                await asyncio.sleep(0.05)

    async def stop(self) -> set[tuple[str, str]]:
        """Every kind of outcome that there was, with its reason or what was wrong."""
        self._over.set()
        await asyncio.gather(*self._tasks)
        return {(line["outcome"], line["reason"] + line["detail"]) for line in self.lines}


@pytest.mark.parametrize(
    ("seed", "transport", "hold"),
    [
        (1129, TransportName.NATIVE, False),
        (12, TransportName.NATIVE, True),
        (4, TransportName.GRPCIO, False),
    ],
)
async def test_a_storm_of_signals_costs_nothing(
    tmp_path: Path,
    session: aiohttp.ClientSession,
    seed: int,
    transport: TransportName,
    hold: bool,
) -> None:
    chance = random.Random(seed)
    # What no change of workers may cost: grpcio refuses what comes late, and Envoy keeps 64 KiB of it.
    short = FAIL_OPEN if transport is TransportName.GRPCIO else [*FAIL_OPEN, LARGE[0]]
    async with installed(tmp_path, transport=transport, hold=hold) as installation:
        await started(installation)
        pid = installation.sidecar.pid
        load = Load(session, installation.url, [short, short, [LONG], [LONG]])
        try:
            await load.more(10)
            for _ in range(SIGNALS):
                installation.sidecar.signal(chance.choice(signals.RENEWING))
                await asyncio.sleep(chance.uniform(0, 1))
            await acted_on(installation)
            await load.more(20)
        finally:
            outcomes = await load.stop()
        assert outcomes == ALL_ANSWERED
        assert installation.sidecar.running, installation.sidecar.tail
        assert installation.sidecar.pid == pid
        # the old workers' last streams have ended
        async with asyncio.timeout(120):
            while len(writers(installation.log)) != 1 + installation.workers:
                await asyncio.sleep(0.2)
        assert await installation.drain_sidecar() == 0, installation.sidecar.tail
        assert writers(installation.log) == []


async def started(installation: Installation) -> None:
    """As `Installation.start`, and Envoy is not kept waiting by a busy machine."""
    await installation.start_peers()
    if installation.holds:
        await installation.start_holder()
    await installation.start_sidecar()
    async with asyncio.timeout(300):
        while not installation.relaying:
            await asyncio.sleep(0.1)
    await installation.start_envoy()
    await installation.ready()


async def acted_on(installation: Installation) -> None:
    """Until no signal is pending and it is ready."""
    async with asyncio.timeout(300):
        while not await installation.page.readiness() or pending(installation.sidecar.pid):
            assert installation.sidecar.running, installation.sidecar.tail
            await asyncio.sleep(0.2)


def pending(pid: int) -> bool:
    """Whether signals for this process wait to be taken."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("ShdPnd:")[2].split()[0], 16) != 0
