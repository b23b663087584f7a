"""Applying: carries out the plan, at the pace that the API server allows. No error leaves it: what
fails is tried again, later each time."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from epp_client.controller.names import MANAGER
from epp_client.controller.objects import GATEWAY_ANNOTATION
from epp_client.controller.plan import (
    Applied,
    Apply,
    Delete,
    Situation,
    Step,
    content,
    noted,
    steps,
)
from epp_client.errors import ApiError, ApiFault
from epp_client.gateway.world import Object
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.status.subjects import Subject
from epp_client.logs import Repeats

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Delays in seconds."""

    first: float = 0.5
    """First delay before an object that failed is tried again. It doubles, up to `longest`."""
    longest: float = 60.0
    between: float = 0.005
    """Delay between two calls."""
    arrival: float = 10.0
    """Time after which an object that was made and that the watch does not show is made again."""


PACE = Pace()

_SEEN = "seen"
"""In the place of a resourceVersion: the watch has the object."""
_WHOLE_SERVER = (ApiFault.UNREACHABLE, ApiFault.THROTTLED, ApiFault.UNAUTHORIZED)
"""Faults that the next call would meet too."""


class _Turn(NamedTuple):
    """When something that failed may be tried again, the delay, and why it failed."""

    at: float
    interval: float
    why: str


class Taken(Exception):
    """An object of the name that we need exists, and is not ours."""


class Applying:
    """Applies and deletes objects, and remembers what it has applied."""

    def __init__(
        self,
        api: KubernetesApi,
        leads: Callable[[], bool],
        clock: Callable[[], float],
        pace: Pace = PACE,
    ) -> None:
        """`leads` tells whether this replica may write."""
        self._api = api
        self._leads = leads
        self._clock = clock
        self._pace = pace
        self._applied: dict[Subject, Applied] = {}
        self._made: dict[Subject, float] = {}
        """When the objects were made that the watch has not shown yet."""
        self._turns: dict[Subject, _Turn] = {}
        self._quiet = _Turn(0.0, 0.0, "")
        self._repeats = Repeats(60.0)
        self.written = 0
        """Number of calls that succeeded."""
        self.failed = 0
        """Number of calls that failed."""

    def problem(self, subjects: Iterable[Subject]) -> str:
        """Why one of these objects cannot be applied; empty when all are."""
        found = (self._turns[one] for one in subjects if one in self._turns)
        return next((turn.why for turn in found if turn.why), "")

    def forget(self) -> None:
        """Forget what was applied: another replica has written since."""
        self._applied.clear()
        self._turns.clear()

    async def carry_out(
        self,
        wanted: Mapping[Subject, Object],
        observed: Mapping[Subject, Object],
        kept: Iterable[str],
    ) -> float | None:
        """Do what has to be done. Returns the seconds until something that failed may be tried again."""
        left = self._quiet.at - self._clock()
        if left > 0:
            return left
        for known in (self._applied, self._turns):
            for subject in known.keys() - wanted.keys() - observed.keys():
                del known[subject]
        turns = [*self._arrivals(observed)]
        for step in [*steps(Situation(wanted, observed, frozenset(kept), self._applied))]:
            turn = self._turns.get(step.subject)
            if turn is not None and self._clock() < turn.at:
                turns.append(turn.at)
                continue
            if not self._leads():
                return None
            try:
                await self._do(step, observed.get(step.subject))
            except (ApiError, Taken) as error:
                turns.append(self._put_off(step, error))
                if isinstance(error, ApiError) and error.fault in _WHOLE_SERVER:
                    break
            else:
                self.written += 1
                self._turns.pop(step.subject, None)
                self._quiet = _Turn(0.0, 0.0, "")
            await asyncio.sleep(self._pace.between)
        return (
            max(0.0, min(turns) - self._clock(), self._quiet.at - self._clock()) if turns else None
        )

    def _arrivals(self, observed: Mapping[Subject, Object]) -> Iterator[float]:
        """Look after the objects that were made: until when those that the watch has not shown yet may
        come."""
        now = self._clock()
        for subject, made in [*self._made.items()]:
            if subject not in self._applied:
                del self._made[subject]
            elif subject in observed:
                # From now on its absence means that it has been deleted.
                self._applied[subject] = self._applied[subject]._replace(over=_SEEN)
                del self._made[subject]
            elif now < made + self._pace.arrival:
                yield made + self._pace.arrival
            else:
                del self._made[subject], self._applied[subject]

    async def _do(self, step: Step, before: Object | None) -> None:
        resource, namespace, name = step.subject
        if isinstance(step, Delete):
            try:
                await self._api.delete(resource, name, namespace, uid=step.uid)
            except ApiError as error:
                if error.fault is not ApiFault.NOT_FOUND:
                    raise
            self._applied.pop(step.subject, None)
            log.info("deleted", object=str(step.subject))
            return
        if not step.known:
            await self._check_free(step)
        returned = await self._api.apply(resource, name, step.data, namespace, MANAGER)
        self._applied[step.subject] = noted(step.data, returned, before)
        if before is None:
            self._made[step.subject] = self._clock()
        if before is None or content(before) != content(returned):
            log.info("applied", object=str(step.subject))

    async def _check_free(self, step: Apply) -> None:
        """Check that nobody else has an object of this name."""
        resource, namespace, name = step.subject
        try:
            found = await self._api.get(resource, name, namespace)
        except ApiError as error:
            if error.fault is ApiFault.NOT_FOUND:
                return
            raise
        ours = step.data["metadata"]["annotations"][GATEWAY_ANNOTATION]
        if ((found["metadata"].get("annotations") or {}).get(GATEWAY_ANNOTATION)) != ours:
            raise Taken(
                f"{step.subject} exists and was not made for this Gateway: delete it, or rename the Gateway"
            )

    def _put_off(self, step: Step, error: ApiError | Taken) -> float:
        """Note a failure; returns when the step may be tried again."""
        self.failed += 1
        old = self._turns.get(step.subject)
        interval = self._next(old)
        why = f"{step.subject}: {error}" if isinstance(error, ApiError) else str(error)
        asked = (error.retry_after or 0.0) if isinstance(error, ApiError) else 0.0
        at = self._clock() + max(interval * random.uniform(0.8, 1.0), asked)
        if isinstance(error, ApiError) and error.fault in _WHOLE_SERVER:
            self._quiet = _Turn(at, self._next(self._quiet), "")
            # What is wrong with the server is no problem of the object.
            why = old.why if old is not None else ""
        if isinstance(error, ApiError) and error.fault is ApiFault.CONFLICT:
            why = ""
        self._turns[step.subject] = _Turn(at, interval, why)
        if (count := self._repeats.due(f"{step.subject} {error}")) is not None:
            log.warning(
                "cannot apply or delete an object; trying again",
                object=str(step.subject),
                error=str(error),
                count=count,
            )
        return at

    def _next(self, turn: _Turn | None) -> float:
        before = 0.0 if turn is None else turn.interval
        return min(max(2 * before, self._pace.first), self._pace.longest)
