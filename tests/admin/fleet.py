"""A sidecar's admin page over pools made for it: for the dashboard's tests, and for looking at it.

`python -m tests.admin.fleet 200 troubled` serves the page on 127.0.0.1:9902 with 200 pools.
"""

import asyncio
import random
import sys
import time
from bisect import bisect_left
from types import MappingProxyType

from epp_client.admin.server import AdminServer, Readiness
from epp_client.errors import ApiFault, Reason
from epp_client.kubernetes.status.report import WriteResult
from epp_client.metrics.counters import PICK_BUCKETS, Counters
from epp_client.metrics.decisions import Decision, News, Traffic
from epp_client.metrics.registry import Metrics
from epp_client.picker.health import AddressNote, Health
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import EndpointPickerRef, FailureMode, InferencePool, PoolName
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.relay.outcome import Outcome

HOSTILE = '<img src=x onerror="document.title=`owned`"><script>document.title="owned"</script>'
"""What a Pod, a label or a message may be called by somebody who means ill."""


class Followed:
    """What a sidecar with `--kubernetes --gateway` has asked of its API server."""

    def stale(self) -> float:
        return 95.0

    def asked(self) -> dict[str, int]:
        return {"list": 12, "watch": 34}

    def faults(self) -> dict[str, int]:
        return {str(fault): 1 for fault in ApiFault}

    def events(self) -> int:
        return 560

    def status_writes(self) -> dict[str, int] | None:
        return {str(result): 1 for result in WriteResult}

    def status_leader(self) -> bool:
        return True


class Fleet:
    """Pools, counters and readiness, and the page that shows them."""

    def __init__(
        self,
        pools: int,
        *,
        troubled: bool = False,
        endpoints: int = 12,
        names: tuple[str, ...] = (),
    ) -> None:
        """`names`: `namespace/name` of the first pools."""
        self.store = PoolStore()
        self.metrics = Metrics("native")
        self.readiness = Readiness()
        self.counters = Counters()
        self.recorded = News([], 0, {}, {})
        self.dice = random.Random(7)
        self.store.subscribe(lambda changed: self.metrics.pools_changed(self.store, changed))
        self.metrics.workers.set(2)
        self.metrics.envoys.set(1)
        self.names = [PoolName(f"team-{i % 7}", f"model-{i:03}") for i in range(pools)]
        for i, name in enumerate(names):
            self.names[i] = PoolName(*name.split("/"))
        snapshots = {
            name: self._pool(i, name, troubled, endpoints) for i, name in enumerate(self.names)
        }
        problems: tuple[Problem, ...] = ()
        if troubled:
            self.readiness.set("api", ok=False, reason="the API server has been away for 95 s")
            self.counters.restarts = 3
            problems = (
                Problem(
                    Severity.ERROR, HOSTILE, "InferencePool team-1/model-001", "spec.x", "a.yaml", 3
                ),
                Problem(Severity.WARNING, "selects no Pod", "InferencePool team-2/model-002"),
            )
        self.store.publish(snapshots, problems)
        self.work(troubled)

    def _pool(self, i: int, name: PoolName, troubled: bool, endpoints: int) -> PoolSnapshot:
        bad = troubled and i % 3
        ready = 0 if bad == 2 else endpoints
        members = [
            Endpoint(
                f"10.{i % 250}.{k // 250}.{k % 250}:8000",
                f"10.{i % 250}.{k // 250}.{k % 250}",
                8000,
                HOSTILE if troubled and k == 0 else f"{name.name}-{k}",
                ready=k < ready,
            )
            for k in range(endpoints)
        ]
        table = EndpointTable(
            MappingProxyType({member.key: member for member in members}),
            generation=2,
        )
        mode = FailureMode.FAIL_OPEN if i % 2 else FailureMode.FAIL_CLOSE
        reference = EndpointPickerRef(f"{name.name}-epp", 9002, mode) if i % 5 != 4 else None
        pool = InferencePool(
            name, (("app", HOSTILE if bad else name.name),), (8000,), picker=reference
        )
        picker = PickerTarget((f"10.200.0.{i % 250}:9002",)) if reference else None
        if bad == 1 and reference:
            picker = PickerTarget(
                problem=f"Service {name.namespace}/{name.name}-epp does not exist"
            )
        return PoolSnapshot(pool, table, picker, acknowledged=1 if bad else 2)

    def work(self, troubled: bool) -> None:
        """What two seconds of requests leave in the counters."""
        for name in self.names:
            numbers = self.counters.pool(str(name))
            for _ in range(self.dice.randrange(40)):
                numbers.picked(self.dice.expovariate(200))
                numbers.outcome(Outcome.STEERED)
                numbers.exchanges[bisect_left(PICK_BUCKETS, self.dice.expovariate(2))] += 1
            self._record(name, troubled)
            numbers.in_flight = self.dice.randrange(9)
            if troubled and self.dice.random() < 0.5:
                reason = self.dice.choice([Reason.PICKER_TIMEOUT, Reason.PICK_OUTSIDE_POOL])
                numbers.fail_open(reason)
                numbers.outcome(Outcome.FAILED_OPEN)
                numbers.refuse(Reason.NO_READY_ENDPOINT)
                numbers.outcome(Outcome.REFUSED)
        self.counters.pickers = {
            str(snapshot.pool.name): dict.fromkeys(
                snapshot.picker.addresses,
                Health.SILENT if troubled and i == 0 else Health.SERVING,
            )
            for i, snapshot in enumerate(self.store.snapshots.values())
            if snapshot.picker
        }
        self.counters.retained_bytes = self.dice.randrange(40_000_000)

    def _record(self, name: PoolName, troubled: bool) -> None:
        """What a relay would have recorded of a pool's requests."""
        snapshot = self.store.snapshots[str(name)]
        members = [*snapshot.table.by_key][:50]
        if not members:
            return
        traffic = self.recorded.traffic.setdefault(str(name), {})
        for _ in range(20):
            key = self.dice.choice(members)
            one = traffic.setdefault(key, Traffic())
            one.picked += 1
            one.served += 1
        bad = troubled and self.dice.random() < 0.3
        made = Decision(
            at=time.time(),
            pool=str(name),
            outcome=Outcome.REFUSED if bad else Outcome.STEERED,
            reason=Reason.PICKER_TIMEOUT if bad else None,
            request_id=f"{self.dice.getrandbits(64):016x}",
            model="llama-8b",
            picker="10.200.0.1:9002",
            said=HOSTILE[:20] if bad else key,
            picked=key,
            served="" if bad else key,
            pick_seconds=self.dice.expovariate(200),
            seconds=self.dice.expovariate(2),
            request_bytes=640,
            response_bytes=20_000,
        )
        self.recorded.decisions.append(made)
        if snapshot.picker is not None:
            error = "no answer for 3 s" if bad else ""
            self.recorded.pickers[str(name)] = {
                address: AddressNote(error, time.time() if bad else 0.0, 0.002)
                for address in snapshot.picker.addresses
            }

    async def totals(self) -> Counters:
        """The numbers now."""
        return self.counters

    def latest(self) -> Counters:
        """The numbers now."""
        return self.counters

    def news(self) -> News:
        """What the requests since the last call have left."""
        news, self.recorded = self.recorded, News([], 0, {}, {})
        return news

    def forget(self, pool: str) -> None:
        """Nothing is deleted here."""

    def server(self, address: str = "127.0.0.1:0") -> AdminServer:
        """The page."""
        return AdminServer(address, self.store, self.metrics, self, self.readiness)


async def _serve(pools: int, troubled: bool) -> None:
    fleet = Fleet(pools, troubled=troubled)
    print(await fleet.server("127.0.0.1:9902").start(), flush=True)
    while True:
        await asyncio.sleep(2)
        fleet.work(troubled)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), "troubled" in sys.argv))
