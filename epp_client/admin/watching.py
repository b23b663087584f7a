"""Watching: the regular looks at this process that the page, `epp-client top` and `tap` are made of."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Protocol

import structlog

from epp_client.logs import Repeats
from epp_client.metrics.counters import Counters
from epp_client.metrics.decisions import News, as_json
from epp_client.metrics.registry import Metrics, current
from epp_client.observe.looks import Look
from epp_client.observe.observer import LOOK_EVERY, Observer
from epp_client.pool.store import PoolStore
from epp_client.time_of_day import unix_time
from epp_client.wakeups import pause

log = structlog.get_logger(__name__)

NEWS_EVERY = 1.0
"""Seconds between two questions for records."""
AFTER_COUNTS = 0.1
"""Seconds for the relays to answer the question for their counters, which is asked at whole seconds. Their
records come with the answer."""


class Relays(Protocol):
    """The relay of this process, or the worker processes."""

    def latest(self) -> Counters:
        """The newest sums over all relays that are known."""

    def news(self) -> News:
        """What was recorded since the last call."""


class Conditions(Protocol):
    """The conditions of readiness."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """Reason of each condition that does not hold."""


class Watching:
    """Looks at the sidecar while `run` runs. `observer` has what was seen."""

    def __init__(
        self,
        store: PoolStore,
        metrics: Metrics,
        relays: Relays,
        readiness: Conditions,
        *,
        serves_xds: bool = False,
        log_decisions: bool = False,
    ) -> None:
        """`serves_xds`: an Envoy should be connected. `log_decisions`: write a log line for every recorded
        decision."""
        self.observer = Observer()
        self._store = store
        self._metrics = metrics
        self._relays = relays
        self._readiness = readiness
        self._serves_xds = serves_xds
        self._log = log_decisions
        self.log_debug = False
        """Whether debug lines are written."""
        self._repeats = Repeats()
        self._looked = asyncio.Event()
        self._heard = asyncio.Event()

    async def run(self) -> None:
        """Look and listen until cancelled."""
        loop = asyncio.get_running_loop()
        next_look = loop.time()
        while True:
            try:
                self.hear()
                if loop.time() >= next_look:
                    next_look = loop.time() + LOOK_EVERY - NEWS_EVERY / 2
                    self.look()
            # The page must not stand still, and requests must not suffer, for a fault in here.
            except Exception:
                if (times := self._repeats.due("look")) is not None:
                    log.exception("cannot look at this process", times=times)
            await pause(NEWS_EVERY)
            await asyncio.sleep(AFTER_COUNTS)

    def hear(self) -> None:
        """Take what the relays have recorded, and wake those who wait for it."""
        news = self._relays.news()
        self.observer.heard(news)
        if self._log:
            for decision in news.decisions:
                log.info("decision", **as_json(decision))
        elif self.log_debug:
            for decision in news.decisions:
                log.debug("decision", **as_json(decision))
        if news.decisions:
            self._heard.set()
            self._heard = asyncio.Event()

    def look(self) -> None:
        """Look now, and wake those who wait for it."""
        self.observer.looked(self.seen())
        self._looked.set()
        self._looked = asyncio.Event()

    async def looked(self) -> None:
        """Wait for the next look."""
        await self._looked.wait()

    async def heard(self, patience: float) -> None:
        """Wait for the next records, for `patience` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._heard.wait()

    def seen(self) -> Look:
        """A look at this process now."""
        store, metrics = self._store, self._metrics
        return Look(
            at=unix_time(),
            now=time.monotonic(),
            counters=self._relays.latest(),
            snapshots=store.snapshots,
            problems=store.problems,
            synced=store.synced,
            reasons=self._readiness.reasons,
            envoys=round(current(metrics.envoys)),
            serves_xds=self._serves_xds,
            nacks=round(current(metrics.xds_nacks)),
            workers=round(current(metrics.workers)),
        )
