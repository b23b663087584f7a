"""Replicas and one Lease on an API server. Time is ours to move: nothing here waits for a clock."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import LEASE
from epp_client.kubernetes.status.lease import Create, Seen, Terms, Wait, decide, observe
from epp_client.kubernetes.status.lease_holder import LeaseHolder
from testbed.kubernetes.patches import Object
from tests.kubernetes.client import ApiServer

TERMS = Terms()
LONGEST = TERMS.duration + 1.1 * TERMS.renewal
"""From a death until another has looked at the Lease and found it stale, jitter included."""


@dataclass
class Time:
    """A replica's own monotonic clock, and the event loop that sleeps by it."""

    now: float = 1000.0
    asleep: asyncio.Event = field(default_factory=asyncio.Event)
    _alarm: asyncio.Event = field(default_factory=asyncio.Event)
    until: float = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.until = self.now + seconds
        self._alarm.clear()
        self.asleep.set()
        await self._alarm.wait()
        self.asleep.clear()

    async def pass_(self, seconds: float) -> None:
        """Move on, through every sleep that ends meanwhile."""
        end = self.now + seconds
        await self.asleep.wait()
        while self.until <= end:
            self.now = max(self.now, self.until)
            self.asleep.clear()
            self._alarm.set()
            await self.asleep.wait()
        self.now = end


@dataclass
class Replica:
    holder: LeaseHolder
    time: Time
    task: "asyncio.Task[None]"
    changes: list[bool]


@dataclass
class Replicas:
    api: KubernetesApi
    namespace: str
    started: list[Replica] = field(default_factory=list)

    async def start(self, name: str) -> Replica:
        time = Time(now=1000.0 * (1 + len(self.started)))
        changes: list[bool] = []
        holder = LeaseHolder(
            self.api,
            self.namespace,
            "lease",
            name,
            lambda: changes.append(holder.holds),
            TERMS,
            time.clock,
            time.sleep,
        )
        replica = Replica(holder, time, asyncio.create_task(holder.run()), changes)
        self.started.append(replica)
        await time.asleep.wait()
        return replica

    async def spec(self, server: ApiServer) -> Object:
        found: Object = (await server.get(LEASE, "lease"))["spec"]
        return found


@pytest.fixture
async def replicas(api_server: ApiServer, api: KubernetesApi) -> AsyncIterator[Replicas]:
    replicas = Replicas(api, api_server.namespace)
    yield replicas
    for replica in replicas.started:
        replica.task.cancel()
    await asyncio.gather(*(r.task for r in replicas.started), return_exceptions=True)


async def test_the_first_holds_and_the_others_wait(
    replicas: Replicas, api_server: ApiServer
) -> None:
    a, b = await replicas.start("a"), await replicas.start("b")
    for _ in range(10):
        await a.time.pass_(2.0)
        await b.time.pass_(2.0)
        assert (a.holder.holds, b.holder.holds) == (True, False)
    spec = await replicas.spec(api_server)
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("a", 0)
    assert spec["acquireTime"] < spec["renewTime"]
    assert (a.changes, b.changes) == ([True], [])


async def test_when_the_holder_dies_another_takes_over_in_time(
    replicas: Replicas, api_server: ApiServer
) -> None:
    a, b = await replicas.start("a"), await replicas.start("b")
    # From now on a's time stands still, as that of a dead process does.
    await b.time.pass_(TERMS.duration - 0.1)
    assert not b.holder.holds
    await b.time.pass_(LONGEST - TERMS.duration + 0.1)
    assert b.holder.holds
    assert b.changes == [True]
    spec = await replicas.spec(api_server)
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("b", 1)
    # It was only stopped (SIGSTOP, a debugger): it does not believe that it still holds.
    a.time.now += LONGEST
    assert not a.holder.holds
    await a.time.pass_(0.0)
    await a.time.pass_(TERMS.duration / 2)
    assert not a.holder.holds
    assert a.changes == [True, False]


async def test_a_renewal_that_comes_late_is_told(replicas: Replicas) -> None:
    a = await replicas.start("a")
    assert a.changes == [True]
    # it did not run, and nobody else has wanted the Lease
    a.time.now += TERMS.deadline + 0.1
    assert not a.holder.holds
    await a.time.pass_(0.0)
    assert a.holder.holds
    assert a.changes == [True, True]


async def test_who_stops_hands_over_at_once(replicas: Replicas, api_server: ApiServer) -> None:
    a, b = await replicas.start("a"), await replicas.start("b")
    a.task.cancel()
    await asyncio.wait({a.task})
    assert a.changes == [True, False]
    assert (await replicas.spec(api_server))["holderIdentity"] == ""
    await b.time.pass_(1.1 * TERMS.renewal)
    assert b.holder.holds


async def test_who_stops_without_the_lease_leaves_it_alone(
    replicas: Replicas, api_server: ApiServer
) -> None:
    await replicas.start("a")
    b = await replicas.start("b")
    b.task.cancel()
    await asyncio.wait({b.task})
    assert (await replicas.spec(api_server))["holderIdentity"] == "a"


async def test_two_that_begin_together_do_not_both_hold(replicas: Replicas) -> None:
    both = await asyncio.gather(replicas.start("a"), replicas.start("b"))
    assert sum(replica.holder.holds for replica in both) == 1


async def test_a_lease_that_is_deleted_is_made_anew(
    replicas: Replicas, api_server: ApiServer
) -> None:
    a = await replicas.start("a")
    await api_server.delete(LEASE, "lease")
    await a.time.pass_(TERMS.renewal)
    assert a.holder.holds
    assert (await replicas.spec(api_server))["holderIdentity"] == "a"


async def test_a_server_that_does_not_answer_costs_the_lease_and_nothing_else(
    replicas: Replicas, api_server: ApiServer
) -> None:
    double = api_server.double
    a = await replicas.start("a")
    double.outage()
    await a.time.pass_(TERMS.deadline - 0.1)
    assert a.holder.holds
    await a.time.pass_(2 * TERMS.renewal)
    assert not a.holder.holds
    assert a.changes == [True, False]
    double.mend()
    await a.time.pass_(TERMS.renewal)
    assert a.holder.holds
    assert a.changes == [True, False, True]


async def test_without_permission_nobody_holds_and_nothing_ends(
    replicas: Replicas, api_server: ApiServer
) -> None:
    double = api_server.double
    double.forbidden |= {("create", "leases"), ("get", "leases")}
    a = await replicas.start("a")
    await a.time.pass_(100.0)
    assert not a.holder.holds
    double.forbidden.clear()
    await a.time.pass_(TERMS.renewal)
    assert a.holder.holds


# --- any interleaving ---

_look = st.tuples(
    # asleep
    st.floats(0.0, 4.0),
    # until the server reads
    st.floats(0.0, 1.0),
    # until the server writes
    st.floats(0.0, 1.0),
)


@settings(deadline=None)
@given(
    st.lists(st.lists(_look, min_size=5, max_size=30), min_size=2, max_size=4),
    st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4),
)
def test_no_two_replicas_ever_hold_at_the_same_time(
    plans: list[list[tuple[float, float, float]]], offsets: list[float]
) -> None:
    """Slow answers, sleepers, and clocks that have nothing to do with each other."""
    version, stored = 0, None
    seen: list[Seen | None] = [None] * len(plans)
    held: list[tuple[float, float, str]] = []
    steps: list[tuple[float, int, int]] = []
    for who, plan in enumerate(plans):
        at = 0.0
        for look, (pause, _, _) in enumerate(plan):
            at += pause + 2.0
            heapq.heappush(steps, (at, who, look))
    pending: list[tuple[float, int, float, int, Object]] = []

    def land(until: float) -> None:
        nonlocal version, stored
        while pending and pending[0][0] <= until:
            at, _, began, base, lease = heapq.heappop(pending)
            if base == version:
                version += 1
                stored = lease
                held.append((at, began + TERMS.deadline, lease["spec"]["holderIdentity"]))

    reads: list[tuple[float, int, int, float]] = []
    for began, who, look in sorted(steps):
        heapq.heappush(reads, (began + plans[who][look][1], who, look, began))
    while reads:
        at, who, look, began = heapq.heappop(reads)
        land(at)
        mine = at + offsets[who]
        seen[who] = observe(stored, seen[who], mine)
        decision = decide(stored, seen[who], f"r{who}", TERMS, ("n", "l"), mine, repr(at))
        if isinstance(decision, Wait):
            continue
        assert isinstance(decision, Create) == (stored is None)
        lease = {"metadata": {}, **decision.lease}
        heapq.heappush(pending, (at + plans[who][look][2], who, began, version, dict(lease)))
    land(float("inf"))
    ends: dict[str, float] = {}
    for start, end, holder in held:
        assert all(start >= ends[other] for other in ends if other != holder)
        ends[holder] = end
