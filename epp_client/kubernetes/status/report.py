"""StatusReporter: writes what is to be said of objects where it differs from their status.

Level-based: each pass reads the newest objects and what is wanted of them, and compares. It patches the
status of one resourceVersion, so it never touches labels, ownerReferences or the spec, and never
overwrites another controller's change. No error leaves it: a failed write is logged and counted, and
requests are served on.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

import structlog

from epp_client.errors import ApiError, ApiFault
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import INFERENCE_POOL
from epp_client.kubernetes.status.subjects import Object, Said, Subject, Wanted, generation
from epp_client.logs import Repeats

log = structlog.get_logger(__name__)


class WriteResult(StrEnum):
    """Result of a write; the label of `epp_client_status_writes`."""

    WRITTEN = "written"
    """The API server accepted the write."""
    CONFLICT = "conflict"
    """Another client wrote first: the object was read and written again."""
    FORBIDDEN = "forbidden"
    """The Role lacks the right to patch the status: apply the component `status` or `gateway`."""
    FULL = "full"
    """Not written completely: `status.parents` or our entry is full."""
    FAILED = "failed"
    """Any other failure; the log has the cause."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Delays that limit the load on the API server, in seconds."""

    settle: float = 0.25
    """Delay from the first change to the pass, which covers further changes."""
    between: float = 0.02
    """Delay between two writes."""
    object: float = 1.0
    """Delay between two writes of one object. It doubles, up to `most`, while writes follow each other."""
    most: float = 60.0
    conflict: float = 0.05
    """Delay before the second try after a conflict. It doubles with each try."""
    tries: int = 5
    pass_writes: int = 50
    """Writes of one pass. After them the newest objects are looked at again."""


PACE = Pace()


INVALID = 422
_TOO_OLD = "an InferencePool CRD without controllerName? upgrade it, or use --no-status"
"""An old CRD would drop `controllerName`, so we would not find our entry and add another one each time."""
_WHOLE_SERVER = (ApiFault.UNREACHABLE, ApiFault.THROTTLED, ApiFault.UNAUTHORIZED)
"""Faults that the next write would meet too."""


class _Turn(NamedTuple):
    """When an object may be written again, and the delay since its last write."""

    at: float
    interval: float
    soonest: float = 0.0
    """When it may be written again if something else is wanted since."""
    want: Wanted | None = None
    """What was wanted at the last write."""

    def due(self, want: Wanted) -> float:
        """When the object may be written. News are said soon: only what has to be said again and again, as
        another client takes it away, is said ever more seldom."""
        return self.at if want == self.want else self.soonest


class _Written(NamedTuple):
    """An object as the server returned it after our write, until the watch has it too."""

    over: frozenset[str]
    """The earlier resourceVersions that it replaces."""
    object: Object


class _Settled(NamedTuple):
    """An object that has what was wanted of it."""

    object: Object
    want: Wanted


class StatusReporter:
    """Keeps what we say in the status of objects current."""

    def __init__(
        self,
        api: KubernetesApi,
        say: Callable[[], Said],
        leads: Callable[[], bool],
        count: Callable[[WriteResult], None],
        pace: Pace = PACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`say` returns what is wanted now, `leads` whether this replica is the one that writes."""
        self._api = api
        self._say = say
        self._leads = leads
        self._count = count
        self._pace = pace
        self._clock = clock
        self._awake = asyncio.Event()
        self._turns: dict[Subject, _Turn] = {}
        self._written: dict[Subject, _Written] = {}
        self._settled: dict[Subject, _Settled] = {}
        self._problems: dict[Subject, str] = {}
        self._quiet = _Turn(0.0, 0.0)
        self._repeats = Repeats(60.0)

    def wake(self) -> None:
        """Start a pass, after a change of objects, of what is wanted, or of the leader."""
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
        said = self._say()
        for known in (self._turns, self._written, self._problems, self._settled):
            for subject in known.keys() - said.objects.keys():
                del known[subject]
        turns: list[float] = []
        writes = 0
        for subject, want in said.wanted.items():
            data = said.objects[subject]
            if not self._differs(subject, want, data):
                continue
            turn = self._turns.get(subject)
            if turn is not None and self._clock() < (due := turn.due(want)):
                turns.append(due)
                continue
            if not self._leads():
                return None
            if writes == self._pace.pass_writes:
                return 0.0
            writes += 1
            self._turns[subject] = self._next_turn(turn, want)
            # The object is due again then if the write fails.
            turns.append(self._turns[subject].at)
            try:
                await self._write(subject, want, self._newest(subject, data))
            except ApiError as error:
                self._failed(subject, error)
                if error.fault in _WHOLE_SERVER:
                    break
            else:
                self._quiet = _Turn(0.0, 0.0)
            await asyncio.sleep(self._pace.between)
        if not turns:
            return None
        return max(0.0, min(turns) - self._clock(), self._quiet.at - self._clock())

    def _differs(self, subject: Subject, want: Wanted, data: Object) -> bool:
        """Whether the object has to be written."""
        settled = self._settled.get(subject)
        if settled is not None and settled.object is data and settled.want == want:
            return False
        newest = self._newest(subject, data)
        if generation(newest) != want.generation:
            # It has been edited since; or our last write returned a newer generation. Wait for the watch.
            return False
        merged = want.merged(newest, time_of_day())
        self._report_problem(subject, merged.problem)
        if not merged.changed and newest is data:
            self._settled[subject] = _Settled(data, want)
        return merged.changed

    async def _wait(self, delay: float | None) -> None:
        """Wait for a change, or `delay` seconds, and then until changes have settled."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._awake.wait()
        await asyncio.sleep(self._pace.settle)

    def _newest(self, subject: Subject, data: Object) -> Object:
        written = self._written.get(subject)
        if written is not None and _version(data) in written.over:
            return written.object
        self._written.pop(subject, None)
        return data

    # --- writing ---

    async def _write(self, subject: Subject, want: Wanted, data: Object) -> None:
        """Write the status of one object, and try again after conflicts.

        Raises:
            ApiError: it cannot be written, or every try was a conflict.
        """
        resource, namespace, name = subject
        over = {_version(data)}
        for tried in range(self._pace.tries):
            merged = want.merged(data, time_of_day())
            if not merged.changed:
                return
            patch = {
                "metadata": {"resourceVersion": _version(data)},
                "status": dict(merged.status),
            }
            try:
                answer = await self._api.patch(
                    resource, name, patch, namespace, subresource="status", strict=True
                )
            except ApiError as error:
                if error.fault is not ApiFault.CONFLICT or tried + 1 == self._pace.tries:
                    raise
                self._count(WriteResult.CONFLICT)
            else:
                self._count(WriteResult.WRITTEN)
                self._written[subject] = _Written(frozenset(over), answer)
                log.info("wrote a status", object=str(subject), conditions=want.summary())
                return
            await asyncio.sleep(self._pace.conflict * 2**tried * random.uniform(0.5, 1.5))
            data = await self._api.get(resource, name, namespace)
            over.add(_version(data))
            if generation(data) != want.generation:
                # The spec has changed: it has to be resolved first, once the watch has it.
                return

    def _next_turn(self, last: _Turn | None, want: Wanted) -> _Turn:
        """Plan the next write. The delay doubles if this write comes soon after the last and says the
        same."""
        now, interval = self._clock(), self._pace.object
        soonest = now + interval
        if last is not None and last.want == want and now < last.at + last.interval:
            interval = min(2 * last.interval, self._pace.most)
        return _Turn(now + interval * random.uniform(1.0, 1.2), interval, soonest, want)

    def _failed(self, subject: Subject, error: ApiError) -> None:
        now = self._clock()
        if error.fault is ApiFault.NOT_FOUND:
            # The object was deleted; the watch will tell.
            return
        forbidden = error.fault is ApiFault.FORBIDDEN
        self._count(WriteResult.FORBIDDEN if forbidden else WriteResult.FAILED)
        if forbidden or error.status == INVALID:
            self._turns[subject] = _Turn(
                now + self._pace.most, self._pace.most, now + self._pace.most
            )
        if error.fault in _WHOLE_SERVER:
            interval = min(max(2 * self._quiet.interval, self._pace.object), self._pace.most)
            pause = max(interval * random.uniform(1.0, 1.2), error.retry_after or 0.0)
            self._quiet = _Turn(now + pause, interval)
        if (count := self._repeats.due(str(error))) is not None:
            old = error.status == INVALID and subject.resource is INFERENCE_POOL
            text = "cannot write a status; the object is still served"
            log.warning(
                text,
                object=str(subject),
                error=str(error),
                hint=_TOO_OLD if old else None,
                count=count,
            )

    def _report_problem(self, subject: Subject, problem: str | None) -> None:
        if problem == self._problems.get(subject):
            return
        if problem is None:
            del self._problems[subject]
            return
        self._problems[subject] = problem
        self._count(WriteResult.FULL)
        log.error("a status is full", object=str(subject), problem=problem)


def time_of_day() -> str:
    """The time of day as Kubernetes writes it in conditions."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(data: Object) -> str:
    return str(data["metadata"].get("resourceVersion"))
