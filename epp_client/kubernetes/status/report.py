"""StatusReporter: writes what `status` has to say of each pool, where it differs from what is there.

Level-based: each pass reads the newest pools, routes and snapshots, and compares. Writes the status
subresource by a patch of `status.parents` that holds for one resourceVersion; so it cannot touch labels,
ownerReferences or the spec, and never undoes what another controller has written meanwhile. No error
leaves it: a status that cannot be written is logged and counted, and requests are served all the same.
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
    """What became of a write; the label of `epp_client_status_writes`."""

    WRITTEN = "written"
    CONFLICT = "conflict"
    """Another wrote first: read anew and tried again."""
    FORBIDDEN = "forbidden"
    FULL = "full"
    """Not tried: other entries, or conditions, leave no room."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds on what the API server gets from us. Seconds."""

    settle: float = 0.25
    """From the first change to the pass over it: what comes together is written together."""
    between: float = 0.1
    """Between two writes of any pools."""
    pool: float = 1.0
    """Between two writes of one pool; doubles, up to `most`, while it goes on changing or failing."""
    most: float = 60.0
    conflict: float = 0.05
    """Before a second try after a conflict; doubles with each try."""
    tries: int = 5


PACE = Pace()


INVALID = 422
_TOO_OLD = "an InferencePool CRD without controllerName? upgrade it, or use --no-status"
"""Such a CRD would drop what tells our entry from others, and we would add another one each time."""
_WHOLE_SERVER = (ApiFault.UNREACHABLE, ApiFault.THROTTLED, ApiFault.UNAUTHORIZED)
"""What it says to one write, it would say to the next one as well."""


class _Turn(NamedTuple):
    """When a pool may be written again, and how long that is after its last write."""

    at: float
    interval: float


class _Written(NamedTuple):
    """A pool as the server answered our write; the watch may not have told it yet."""

    over: frozenset[str]
    """The resourceVersions that it took the place of."""
    pool: Object


class StatusReporter:
    """Keeps our entry in `status.parents` of every pool in step with what is known."""

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
        """`leads` says whether this replica is the one that writes."""
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
        """Something has changed: pools, routes, snapshots, or who leads."""
        self._awake.set()

    async def run(self) -> None:
        """Report until cancelled. Entries stay: other replicas serve on, and this one may be back."""
        while True:
            self._awake.clear()
            await self._wait(await self.report())

    async def report(self) -> float | None:
        """One pass: write what differs and may be written now; seconds to the turn of what may not."""
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
                # we know of a newer one from its answer; the watch will bring it
                continue
            merged = merge(pool, self._parent, want.conditions, time_of_day())
            self._tell(name, merged.problem)
            if not merged.changed:
                continue
            turn = self._turns.get(name)
            if turn is not None and self._clock() < turn.at:
                turns.append(turn.at)
                continue
            if not self._leads():
                return None
            self._turns[name] = self._next_turn(turn)
            # in case that it fails
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
        """Until something changes, and has settled, or the first turn comes."""
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

    # --- saying it ---

    async def _write(self, name: PoolName, want: Wanted, pool: Object) -> None:
        """Write one pool, over whatever others write meanwhile.

        Raises:
            ApiError: it cannot be written, or not within so many tries.
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
                log.info("wrote the status of a pool", pool=str(name), said=_summary(want))
                return
            await asyncio.sleep(self._pace.conflict * 2**tried * random.uniform(0.5, 1.5))
            pool = await self._api.get(INFERENCE_POOL, name.name, name.namespace)
            over.add(_version(pool))
            if generation(pool) != want.generation:
                # the watch will bring it, and what it is about is to be looked at anew
                return

    def _next_turn(self, last: _Turn | None) -> _Turn:
        """A pool that is written again and again has to wait longer and longer."""
        now, interval = self._clock(), self._pace.pool
        if last is not None and now < last.at + last.interval:
            interval = min(2 * last.interval, self._pace.most)
        return _Turn(now + interval * random.uniform(1.0, 1.2), interval)

    def _failed(self, name: PoolName, error: ApiError) -> None:
        now = self._clock()
        if error.fault is ApiFault.NOT_FOUND:
            # deleted; the watch will say so
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
            text = "the status of a pool cannot be written; it is served all the same"
            log.warning(text, pool=str(name), error=str(error), hint=hint, count=count)

    def _tell(self, name: PoolName, problem: str | None) -> None:
        if problem == self._problems.get(name):
            return
        if problem is None:
            del self._problems[name]
            return
        self._problems[name] = problem
        self._count(WriteResult.FULL)
        log.error(
            "the status of a pool has no room for what we say", pool=str(name), problem=problem
        )


def time_of_day() -> str:
    """The time of day as Kubernetes writes it in conditions."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(pool: Object) -> str:
    return str(pool["metadata"].get("resourceVersion"))


def _summary(want: Wanted) -> str:
    if want.conditions is None:
        return "nothing any more: no route of the Gateway refers to it"
    return ", ".join(f"{c.type}={c.status} ({c.reason})" for c in want.conditions)
