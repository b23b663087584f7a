"""Measures how long a stopped picker (SIGSTOP) delays requests under FailOpen at a steady rate."""

import asyncio
import itertools
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from chaos.installation import running_installation
from chaos.load import ask
from chaos.workload import Ask
from epp_client.picker.health import JITTER, pace
from epp_client.pool.settings import PoolSettings
from epp_client.settings import TransportName

RATE = 50
PICK_TIMEOUT = PoolSettings().pick_timeout
"""The default of minutes, as health checks detect a stopped picker."""
_PACE = pace(PICK_TIMEOUT)
FOUND = _PACE.interval * (1 + JITTER) + _PACE.patience
"""Seconds within which silence is detected."""
BEFORE, DURING = 3.0, 2.5 * FOUND
_WAITED = 0.5
"""Seconds above which a request counts as delayed by the picker."""


@dataclass(frozen=True)
class Felt:
    """What clients saw. Times are in seconds."""

    p99_before: float
    longest: float
    """Longest time of any request."""
    until_normal: float
    """From the begin of the first delayed request to the end of the last."""
    p99_after: float
    waited: int
    """Requests delayed by the picker."""
    sent: int
    lost: int

    @property
    def within(self) -> bool:
        """Whether the promise is kept: no delays once silence is detected, and nothing is lost."""
        bound = FOUND + 1
        return self.until_normal <= bound and self.longest <= bound and not self.lost


async def measure(transport: TransportName) -> Felt:
    """Stop the picker of pool `open` under load, let it continue, and measure."""
    with tempfile.TemporaryDirectory(prefix="epp-client-stopped-") as folder:
        async with (
            running_installation(
                Path(folder), transport=transport, options=("--pick-timeout", str(PICK_TIMEOUT))
            ) as installation,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            # Warm up.
            await _load(session, installation.url, 1.0)
            before = await _load(session, installation.url, BEFORE)
            installation.pickers["open"].signal(signal.SIGSTOP)
            during = await _load(session, installation.url, DURING)
            installation.pickers["open"].signal(signal.SIGCONT)
    return _felt(before, during)


async def _load(session: aiohttp.ClientSession, url: str, seconds: float) -> list[dict[str, Any]]:
    began = time.monotonic()
    tasks = []
    for number in itertools.count():
        if (due := began + number / RATE) > began + seconds:
            break
        await asyncio.sleep(due - time.monotonic())
        request = Ask(number, "open", "1 KB", "", number)
        tasks.append(asyncio.create_task(ask(session, url, request)))
    return await asyncio.gather(*tasks)


def _felt(before: Sequence[dict[str, Any]], during: Sequence[dict[str, Any]]) -> Felt:
    usual = median(_took(line) for line in before)
    waited = [line for line in during if _took(line) > max(_WAITED, 3 * usual)]
    first = min((line["began"] for line in waited), default=0.0)
    last = max((line["ended"] for line in waited), default=0.0)
    after = [line for line in during if line["began"] > last]
    return Felt(
        _p99(before),
        max(_took(line) for line in during),
        last - first,
        _p99(after),
        len(waited),
        len(during),
        sum(line["outcome"] != "answered" for line in (*before, *during)),
    )


def _took(line: dict[str, Any]) -> float:
    return float(line["ended"] - line["began"])


def _p99(lines: Sequence[dict[str, Any]]) -> float:
    took = sorted(map(_took, lines))
    return took[min(len(took) - 1, int(0.99 * len(took)))] if took else 0.0
