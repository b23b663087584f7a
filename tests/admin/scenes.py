"""Scenes for the admin page: fifteen minutes of made-up traffic, and what may go wrong in it.

`python -m tests.admin.scenes` draws the pictures of the documentation into docs/images.
"""

import asyncio
import math
import sys
import time
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from epp_client.admin.server import AdminServer
from epp_client.errors import Reason
from epp_client.metrics.counters import PICK_BUCKETS
from epp_client.metrics.decisions import Decision, News, Traffic
from epp_client.observe.history import EVERY
from epp_client.picker.health import AddressNote, Health
from epp_client.pool.endpoints import EndpointTable
from epp_client.relay.outcome import Outcome
from tests.admin.browser import opened
from tests.admin.fleet import Fleet

IMAGES = Path(__file__).parents[2] / "docs" / "images"
NAMES = ("default/llama", "default/qwen", "chat/mistral", "chat/gemma", "embed/bge")
BROKEN, LYING = NAMES[1], NAMES[3]
"""Pools of an incident: all Pods of the one are gone, the picker of the other answers too late."""
PAST = 900.0
INCIDENT = 240.0
"""Seconds ago at which the incident began."""


class Scene(Fleet):
    """Pools with a past. `incident`: for the last four minutes two pools are in trouble."""

    def __init__(self, pools: int, *, incident: bool = False, endpoints: int = 8) -> None:
        self.incident = self._broken = False
        self._until = time.time()
        super().__init__(pools, endpoints=endpoints, names=NAMES[:pools])
        self.recorded = News([], 0, {}, {})
        self.incident = incident

    def server(self, address: str = "127.0.0.1:0") -> AdminServer:
        """The page, which has seen the past."""
        server = super().server(address)
        observer, began = server.watching.observer, time.time()
        at, clocks = began - PAST, time.monotonic() - began
        while at < time.time():
            self.pass_time(at, EVERY, bad=self.incident and at > began - INCIDENT)
            observer.heard(self.news())
            look = server.watching.seen()
            observer.looked(look._replace(at=at, now=at + clocks))
            at += EVERY
        self._until = at - EVERY
        return server

    def work(self, troubled: bool = False) -> None:
        """Two seconds of requests."""
        self.pass_time(time.time(), 2.0, bad=self.incident)

    async def go_on(self) -> None:
        """Requests at the pace of the clock."""
        before = self._until
        while True:
            await asyncio.sleep(0.5)
            now = time.time()
            self.pass_time(now, now - before, bad=self.incident)
            before = now

    def pass_time(self, at: float, seconds: float, *, bad: bool) -> None:
        """Requests of some seconds, at the Unix time `at`."""
        if bad and not self._broken:
            self._break()
        for i, name in enumerate(self.names):
            wave = 1 + 0.35 * math.sin(at / 170 + i) + self.dice.uniform(-0.1, 0.1)
            count = int(seconds * wave * (9 if i < len(NAMES) else 1) + self.dice.random())
            for _ in range(count):
                self._request(str(name), at, bad=bad)
            self.counters.pool(str(name)).in_flight = round(8 * wave)
        self._ask_pickers(at, bad=bad)

    def _break(self) -> None:
        self._broken = True
        gone = self.store.snapshots[BROKEN]
        empty = replace(gone, table=EndpointTable(MappingProxyType({}), generation=2))
        self.store.publish(
            {s.pool.name: empty if n == BROKEN else s for n, s in self.store.snapshots.items()}, ()
        )

    def _request(self, pool: str, at: float, *, bad: bool) -> None:
        numbers, dice = self.counters.pool(pool), self.dice
        reason, outcome = None, Outcome.STEERED
        if bad and pool == BROKEN:
            reason, outcome = Reason.NO_READY_ENDPOINT, Outcome.REFUSED
            numbers.refuse(reason)
        elif bad and pool == LYING and dice.random() < 0.3:
            reason, outcome = Reason.PICKER_TIMEOUT, Outcome.FAILED_OPEN
            numbers.fail_open(reason)
        elif self.store.snapshots[pool].picker is None:
            outcome = Outcome.LOCAL_PICK
        pick, took = dice.expovariate(220), 0.3 + dice.expovariate(1.4)
        numbers.outcome(outcome)
        if outcome is not Outcome.REFUSED:
            if outcome is not Outcome.LOCAL_PICK:
                numbers.picked(pick)
            numbers.exchanges[bisect_left(PICK_BUCKETS, took)] += 1
        self._note(pool, at, outcome, reason, pick, took)

    def _note(
        self,
        pool: str,
        at: float,
        outcome: Outcome,
        reason: Reason | None,
        pick: float,
        took: float,
    ) -> None:
        dice, served = self.dice, ""
        if members := [*self.store.snapshots[pool].table.by_key]:
            served = members[min(len(members) - 1, int(dice.expovariate(0.35)))]
            one = self.recorded.traffic.setdefault(pool, {}).setdefault(served, Traffic())
            one.picked += 1
            one.served += 1
        if reason is None and dice.random() > 0.05:
            return
        self.recorded.decisions.append(
            Decision(
                at=at - dice.uniform(0, 2),
                pool=pool,
                outcome=outcome,
                reason=reason,
                request_id=f"{dice.getrandbits(64):016x}",
                model=pool.split("/")[1],
                picker="10.200.0.1:9002" if outcome is not Outcome.REFUSED else "",
                said=served if outcome is Outcome.STEERED else "",
                picked=served,
                served=served,
                pick_seconds=pick if outcome is Outcome.STEERED else None,
                seconds=took if served else 0.002,
                request_bytes=dice.randrange(300, 4000),
                response_bytes=dice.randrange(900, 40_000) if served else 210,
            )
        )

    def _ask_pickers(self, at: float, *, bad: bool) -> None:
        for name, snapshot in self.store.snapshots.items():
            late = bad and name == LYING
            addresses = snapshot.picker.addresses if snapshot.picker else ()
            self.counters.pickers[name] = dict.fromkeys(
                addresses, Health.FAILING if late else Health.SERVING
            )
            note = (
                AddressNote("no pick within 10 s", at, 0.004) if late else AddressNote("", 0, 0.002)
            )
            self.recorded.pickers[name] = dict.fromkeys(addresses, note)


async def _draw(
    scene: Scene, name: str, *views: tuple[str, int, int, bool], script: str = ""
) -> None:
    server = scene.server()
    address = await server.start()
    working = asyncio.create_task(scene.go_on())
    try:
        async with opened(f"http://{address}/") as page:
            await page.until("typeof state == 'object' && state.head && state.history.size > 0")
            await page.run(script or "0")
            await asyncio.sleep(7)
            for suffix, width, height, dark in views:
                path = IMAGES / f"{name}{suffix}.png"
                for _ in range(2):
                    await page.picture(path, width, height, dark=dark)
                    await asyncio.sleep(0.5)
    finally:
        working.cancel()
        await server.close()


async def pictures() -> None:
    """Draw all pictures of the documentation."""
    wide = 1280
    await _draw(Scene(5), "admin", ("", wide, 860, False))
    await _draw(
        Scene(5, incident=True), "admin-trouble",
        ("", wide, 1000, False), ("-dark", wide, 1000, True), ("-phone", 390, 844, False),
    )  # fmt: skip
    name = f'[data-pool="{LYING}"]'
    await _draw(
        Scene(5, incident=True), "admin-pool", ("", wide, 1240, False),
        script=f"document.querySelector('{name}').click()",
    )  # fmt: skip
    await _draw(Scene(500, incident=True, endpoints=20), "admin-large", ("", wide, 860, False))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        IMAGES = Path(sys.argv[1])
    asyncio.run(pictures())
