"""Storms of signals under load, with the real Envoy: no request is lost, and one process is left."""

import asyncio
import random
from pathlib import Path

import aiohttp
import psutil
import pytest

from chaos.installation import Installation
from chaos.load import ask
from epp_client import signals
from epp_client.settings import TransportName
from tests.e2e.test_chaos_lifecycle import (
    ALL_ANSWERED,
    STREAM,
    Asking,
    installed,
    kept_by,
    session,
)

__all__ = ["session"]

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

SIGNALS = 12


def writers(log: Path) -> list[psutil.Process]:
    """Everybody who writes to this log: the control process, its workers, orphans."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(file.path == str(log) for file in process.open_files()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(("seed", "hold"), [(1129, False), (12, True)])
async def test_a_storm_of_signals_costs_nothing(
    tmp_path: Path,
    session: aiohttp.ClientSession,
    transport: TransportName,
    seed: int,
    hold: bool,
) -> None:
    chance = random.Random(seed)
    async with installed(tmp_path, transport=transport, hold=hold) as installation:
        await installation.start()
        pid, over = installation.sidecar.pid, asyncio.Event()
        long: list[dict[str, object]] = []

        async def stream() -> None:
            while not over.is_set():
                long.append(await ask(session, installation.url, STREAM, 60))

        streams = [asyncio.create_task(stream()) for _ in range(3)]
        asking = Asking(session, installation, kept_by(installation))
        try:
            await asking.more(10)
            for _ in range(SIGNALS):
                installation.sidecar.signal(chance.choice(signals.RENEWING))
                await asyncio.sleep(chance.uniform(0, 1))
            await acted_on(installation)
            await asking.more(20)
        finally:
            over.set()
            outcomes = await asking.stop()
            await asyncio.gather(*streams)
        assert outcomes == ALL_ANSWERED
        assert {(line["outcome"], line["detail"]) for line in long} == ALL_ANSWERED
        assert installation.sidecar.running, installation.sidecar.tail
        assert installation.sidecar.pid == pid
        async with asyncio.timeout(60):  # the old workers' last streams have ended
            while len(writers(installation.log)) != 1 + installation.workers:
                await asyncio.sleep(0.2)
        assert await installation.drain_sidecar() == 0, installation.sidecar.tail
        assert writers(installation.log) == []


async def acted_on(installation: Installation) -> None:
    """Until no signal is pending and it is ready: on a busy machine each start takes its time."""
    async with asyncio.timeout(300):
        while not await installation.page.readiness() or pending(installation.sidecar.pid):
            assert installation.sidecar.running, installation.sidecar.tail
            await asyncio.sleep(0.2)


def pending(pid: int) -> bool:
    """Whether signals for this process wait to be taken."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("ShdPnd:")[2].split()[0], 16) != 0
