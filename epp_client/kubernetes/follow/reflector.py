"""Reflector: keeps a Cache in step with one query of the API server, whatever happens to the server.

List, then watch from there; when the watch ends, watch on; when the version is forgotten (410), list anew.
The last state stays while nothing can be had; who reads it is told for how long it has been the last.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from epp_client.errors import ApiError, ApiFault
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.follow.cache import Cache, Key, Object
from epp_client.kubernetes.follow.queries import Query

log = structlog.get_logger(__name__)

Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True)
class Pace:
    """How a failing server is asked again. Seconds."""

    first: float = 0.2
    longest: float = 15.0
    absent: float = 15.0
    """Between two looks for a kind that the server does not serve."""
    watch: float = 300.0
    """One watch; up to twice as long, so that many do not end together."""
    idle: float = 120.0
    """Silence that is taken for a dead connection."""
    settled: float = 5.0
    """A watch that has lasted so long was a good one: the next failure is the first again."""


PACE = Pace()


class Asked:
    """What all reflectors of a process have asked of the server."""

    def __init__(self) -> None:
        self.lists = 0
        self.watches = 0
        self.events = 0
        self.faults: dict[ApiFault, int] = dict.fromkeys(ApiFault, 0)


class Reflector(Generic[Kept]):
    """One query, followed by `run`."""

    def __init__(
        self,
        api: KubernetesApi,
        query: Query,
        keep: Callable[[Object], Kept],
        changed: Callable[[], None],
        asked: Asked,
        *,
        optional: bool = False,
        pace: Pace = PACE,
        clock: Callable[[], float] | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """`changed` is called after every change, and when `synced` or `failure` changes. `optional`: a
        kind that the server does not serve has no objects. `dice` throws 0 to 1."""
        self.query = query
        self.cache = Cache(keep)
        self.stale_since: float | None = None
        """By the monotonic clock; None while a watch is open, or before the first attempt has failed."""
        self.failure: ApiError | None = None
        """Why the last attempt failed; None when it did not."""
        self.listed = False
        """Whether `objects` comes from the server, and not from an earlier process."""
        self._api = api
        self._changed = changed
        self._asked = asked
        self._optional = optional
        self._pace = pace
        self._clock = clock or asyncio.get_running_loop().time
        self._dice = dice
        self._backoff = 0.0
        self._forgotten = False
        """The server has forgotten our version, and no watch has lasted since."""

    @property
    def objects(self) -> dict[Key, Kept]:
        """What is known."""
        return self.cache.objects

    @property
    def synced(self) -> bool:
        """Whether `objects` has been a whole list once, of this process's or of an earlier one's."""
        return self.cache.synced

    @property
    def answered(self) -> bool:
        """Whether the server has said something definite: a list, or that there will be none."""
        definite = (ApiFault.FORBIDDEN, ApiFault.NOT_FOUND)
        return self.synced or (self.failure is not None and self.failure.fault in definite)

    def recall(self, objects: Mapping[Key, Kept], since: float) -> None:
        """Take what was known at `since`, by the monotonic clock, until the first list is there."""
        if not self.synced:
            self.cache.reset(dict(objects), version="")
            self.stale_since = since
            self._changed()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._follow()
            except ApiError as error:
                await self._pause(error)
            except Exception as error:
                # Of an object that nobody foresaw: a watch goes on behind it, and nobody stops in silence.
                log.exception("an object cannot be read", query=str(self.query))
                text = f"cannot follow {self.query}: {type(error).__name__}"
                await self._pause(ApiError(ApiFault.OTHER, text))

    async def _follow(self) -> None:
        if not self.cache.version:
            await self._list()
        self._asked.watches += 1
        timeout = self._pace.watch * (1 + self._dice())
        async with self._api.watch(
            self.query.resource,
            self.query.namespace,
            resource_version=self.cache.version,
            label_selector=self.query.label_selector,
            field_selector=self.query.field_selector,
            timeout=timeout,
            idle_timeout=self._pace.idle,
        ) as stream:
            began = self._clock()
            self._fresh()
            try:
                async for event in stream:
                    self._asked.events += 1
                    if self.cache.apply(event.type, event.object):
                        self._changed()
            finally:
                lasted = self._clock() - began
                if lasted >= self._pace.settled:
                    self._backoff, self._forgotten = 0.0, False
        if lasted < self._pace.settled:
            # Accepted and ended at once, again and again: that is a failing server as well.
            await asyncio.sleep(self._next_backoff())
        elif lasted < timeout - self._pace.settled:
            # The server goes, and tells so all who watch, at once.
            await asyncio.sleep(self._pace.first * self._dice())

    async def _list(self) -> None:
        found: dict[Key, Kept] = {}
        token = ""
        while True:
            self._asked.lists += 1
            page = await self._api.list_page(
                self.query.resource,
                self.query.namespace,
                label_selector=self.query.label_selector,
                field_selector=self.query.field_selector,
                next=token,
            )
            found |= self.cache.keep(page.items)
            token = page.next
            if not token:
                break
        changed = self.cache.reset(found, page.resource_version)
        self.listed = True
        self._fresh()
        if changed:
            self._changed()

    def _fresh(self) -> None:
        if self.stale_since is not None:
            log.info("followed again", query=str(self.query))
        elif self.failure is None:
            return
        self.stale_since = self.failure = None
        self._changed()

    async def _pause(self, error: ApiError) -> None:
        """After a failure: remember it, and wait before the next attempt."""
        self._asked.faults[error.fault] += 1
        if error.fault is ApiFault.GONE:
            self.cache.forget_version()
            if not self._forgotten:
                # Nothing is wrong with the server; but all of its clients may hear this together.
                self._forgotten = True
                await asyncio.sleep(self._pace.first * self._dice())
                return
        elif error.fault is ApiFault.NOT_FOUND and self._optional:
            if self.cache.reset({}, "") or self.failure is None:
                self.failure = error
                self._changed()
            await asyncio.sleep(self._pace.absent * (0.5 + self._dice() / 2))
            return
        if self.failure is None or str(self.failure) != str(error):
            log.warning("cannot follow", query=str(self.query), error=str(error))
        if self.stale_since is None:
            self.stale_since = self._clock()
        self.failure = error
        self._changed()
        # Many are told the same `Retry-After`, at the same moment.
        asked_for = (error.retry_after or 0.0) * (1 + self._dice())
        await asyncio.sleep(max(self._next_backoff(), asked_for))

    def _next_backoff(self) -> float:
        self._backoff = min(max(2 * self._backoff, self._pace.first), self._pace.longest)
        return self._backoff * (0.5 + self._dice() / 2)
