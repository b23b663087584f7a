"""StatusReporter: writes the conditions of each pool where they differ from its status.

Level-based: each pass reads the newest pools, routes and snapshots, and compares. It patches
`status.parents` of one resourceVersion, so it never touches labels, ownerReferences or the spec, and never
overwrites another controller's change. No error leaves it: a failed write is logged and counted, and
requests are served on.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import structlog

from epp_client.errors import ApiError, ApiFault
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import INFERENCE_POOL
from epp_client.kubernetes.status.findings import Inputs, Wanted, findings, generation
from epp_client.kubernetes.status.merge import Parent, merge
from epp_client.logs import Repeats
from epp_client.pool.inference_pool import PoolName

log = structlog.get_logger(__name__)

Object = Mapping[str, Any]


class WriteResult(StrEnum):
    """Result of a write; the label of `epp_client_status_writes`."""

    WRITTEN = "written"
    """The API server accepted the write."""
    CONFLICT = "conflict"
    """Another client wrote first: the pool was read and written again."""
    FORBIDDEN = "forbidden"
    """The Role lacks the right to patch the status: apply the component `status`."""
    FULL = "full"
    """Not written completely: `status.parents` or our entry is full."""
    FAILED = "failed"
    """Any other failure; the log has the cause."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Delays that limit the load on the API server, in seconds."""

    settle: float = 0.25
    """Delay from the first change to the pass, which covers further changes."""
    between: float = 0.1
    """Delay between two writes."""
    pool: float = 1.0
    """Delay between two writes of one pool. It doubles, up to `most`, while writes follow each other."""
    most: float = 60.0
    conflict: float = 0.05
    """Delay before the second try after a conflict. It doubles with each try."""
    tries: int = 5


PACE = Pace()


INVALID = 422
_TOO_OLD = "an InferencePool CRD without controllerName? upgrade it, or use --no-status"
"""An old CRD would drop `controllerName`, so we would not find our entry and add another one each time."""
_WHOLE_SERVER = (ApiFault.UNREACHABLE, ApiFault.THROTTLED, ApiFault.UNAUTHORIZED)
"""Faults that the next write would meet too."""


class _Turn(NamedTuple):
    """When a pool may be written again, and the delay since its last write."""

    at: float
    interval: float


class _Written(NamedTuple):
    """A pool as the server returned it after our write, until the watch has it too."""

    over: frozenset[str]
    """The earlier resourceVersions that it replaces."""
    pool: Object


class StatusReporter:
    """Keeps our entry in `status.parents` of every pool current."""

    def __init__(
        self,
        api: KubernetesApi,
        parent: Parent,
        inputs: Inputs,
        leads: Callable[[], bool],
        count: Callable[[WriteResult], None],
        pace: Pace = PACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`leads` returns whether this replica is the one that writes."""
        self._api = api
        self._parent = parent
        self._inputs = inputs
        self._leads = leads
        self._count = count
        self._pace = pace
        self._clock = clock
        self._awake = asyncio.Event()
        self._turns: dict[PoolName, _Turn] = {}
        self._written: dict[PoolName, _Written] = {}
        self._problems: dict[PoolName, str] = {}
        self._quiet = _Turn(0.0, 0.0)
        self._repeats = Repeats(60.0)

    def wake(self) -> None:
        """Start a pass, after a change of pools, routes, snapshots or the leader."""
        self._awake.set()

    async def run(self) -> None:
        """Report until cancelled. Entries stay: other replicas still serve, and this one may come back."""
        while True:
            self._awake.clear()
            await self._wait(await self.report())

    async def report(self) -> float | None:
        """Write what differs and may be written now; returns the seconds until the rest may be, or None."""
        if not self._leads():
            return None
        left = self._quiet.at - self._clock()
        if left > 0:
            return left
        pools = self._inputs.pools() or {}
        wanted = findings(self._inputs, pools, self._parent.gateway)
        for known in (self._turns, self._written, self._problems):
            for name in known.keys() - pools.keys():
                del known[name]
        turns: list[float] = []
        for name, want in wanted.items():
            pool = self._newest(name, pools[name])
            if generation(pool) != want.generation:
                # Our last write returned a newer generation; wait until the watch has it.
                continue
            merged = merge(pool, self._parent, want.conditions, time_of_day())
            self._report_problem(name, merged.problem)
            if not merged.changed:
                continue
            turn = self._turns.get(name)
            if turn is not None and self._clock() < turn.at:
                turns.append(turn.at)
                continue
            if not self._leads():
                return None
            self._turns[name] = self._next_turn(turn)
            # The pool is due again then if the write fails.
            turns.append(self._turns[name].at)
            try:
                await self._write(name, want, pool)
            except ApiError as error:
                self._failed(name, error)
                if error.fault in _WHOLE_SERVER:
                    break
            else:
                self._quiet = _Turn(0.0, 0.0)
            await asyncio.sleep(self._pace.between)
        if not turns:
            return None
        return max(0.0, min(turns) - self._clock(), self._quiet.at - self._clock())

    async def _wait(self, delay: float | None) -> None:
        """Wait for a change, or `delay` seconds, and then until changes have settled."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._awake.wait()
        await asyncio.sleep(self._pace.settle)

    def _newest(self, name: PoolName, pool: Object) -> Object:
        written = self._written.get(name)
        if written is not None and _version(pool) in written.over:
            return written.pool
        self._written.pop(name, None)
        return pool

    # --- writing ---

    async def _write(self, name: PoolName, want: Wanted, pool: Object) -> None:
        """Write the status of one pool, and try again after conflicts.

        Raises:
            ApiError: it cannot be written, or every try was a conflict.
        """
        over = {_version(pool)}
        for tried in range(self._pace.tries):
            merged = merge(pool, self._parent, want.conditions, time_of_day())
            if not merged.changed:
                return
            patch = {
                "metadata": {"resourceVersion": _version(pool)},
                "status": {"parents": list(merged.parents)},
            }
            try:
                answer = await self._api.patch(
                    INFERENCE_POOL,
                    name.name,
                    patch,
                    name.namespace,
                    subresource="status",
                    strict=True,
                )
            except ApiError as error:
                if error.fault is not ApiFault.CONFLICT or tried + 1 == self._pace.tries:
                    raise
                self._count(WriteResult.CONFLICT)
            else:
                self._count(WriteResult.WRITTEN)
                self._written[name] = _Written(frozenset(over), answer)
                log.info("wrote the status of a pool", pool=str(name), conditions=_summary(want))
                return
            await asyncio.sleep(self._pace.conflict * 2**tried * random.uniform(0.5, 1.5))
            pool = await self._api.get(INFERENCE_POOL, name.name, name.namespace)
            over.add(_version(pool))
            if generation(pool) != want.generation:
                # The spec has changed: it has to be resolved first, once the watch has it.
                return

    def _next_turn(self, last: _Turn | None) -> _Turn:
        """Plan the next write. The delay doubles if this write comes soon after the last."""
        now, interval = self._clock(), self._pace.pool
        if last is not None and now < last.at + last.interval:
            interval = min(2 * last.interval, self._pace.most)
        return _Turn(now + interval * random.uniform(1.0, 1.2), interval)

    def _failed(self, name: PoolName, error: ApiError) -> None:
        now = self._clock()
        if error.fault is ApiFault.NOT_FOUND:
            # The pool was deleted; the watch will tell.
            return
        forbidden = error.fault is ApiFault.FORBIDDEN
        self._count(WriteResult.FORBIDDEN if forbidden else WriteResult.FAILED)
        if forbidden or error.status == INVALID:
            self._turns[name] = _Turn(now + self._pace.most, self._pace.most)
        if error.fault in _WHOLE_SERVER:
            interval = min(max(2 * self._quiet.interval, self._pace.pool), self._pace.most)
            pause = max(interval * random.uniform(1.0, 1.2), error.retry_after or 0.0)
            self._quiet = _Turn(now + pause, interval)
        if (count := self._repeats.due(str(error))) is not None:
            hint = _TOO_OLD if error.status == INVALID else None
            text = "cannot write the status of a pool; the pool is still served"
            log.warning(text, pool=str(name), error=str(error), hint=hint, count=count)

    def _report_problem(self, name: PoolName, problem: str | None) -> None:
        if problem == self._problems.get(name):
            return
        if problem is None:
            del self._problems[name]
            return
        self._problems[name] = problem
        self._count(WriteResult.FULL)
        log.error("the status of a pool is full", pool=str(name), problem=problem)


def time_of_day() -> str:
    """The time of day as Kubernetes writes it in conditions."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(pool: Object) -> str:
    return str(pool["metadata"].get("resourceVersion"))


def _summary(want: Wanted) -> str:
    if want.conditions is None:
        return "entry removed: no route of the Gateway refers to the pool"
    return ", ".join(f"{c.type}={c.status} ({c.reason})" for c in want.conditions)
