"""Reflector: keeps a Cache in step with one query of the API server, through every failure of the server.

It lists, then watches from that version; it watches again when a watch ends, and lists again when the
server has no more history (410). During an outage the last state stays, and `stale_since` has its start.
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
    """Delays and timeouts in seconds."""

    first: float = 0.2
    """First back-off."""
    longest: float = 15.0
    """Longest back-off."""
    absent: float = 15.0
    """Delay between two lists of a kind that the server does not serve."""
    watch: float = 300.0
    """Duration of a watch; up to twice as long at random, so that many do not end together."""
    idle: float = 120.0
    """Silence that counts as a dead connection."""
    settled: float = 5.0
    """Duration of a watch after which the back-off starts over."""


PACE = Pace()


class Asked:
    """Numbers of calls, events and faults of all reflectors of a process."""

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
        """`changed` is called after every change of the objects, of `synced` or of `failure`. `optional`: a
        kind that the server does not serve counts as empty. `dice` returns 0 to 1."""
        self.query = query
        self.cache = Cache(keep)
        self.stale_since: float | None = None
        """Since when, by the monotonic clock, the state is not current; None while a watch is open, or
        before the first attempt has failed."""
        self.failure: ApiError | None = None
        """The error of the last attempt; None if it succeeded."""
        self.listed = False
        """Whether `objects` comes from the server, not from the last-known file."""
        self._api = api
        self._changed = changed
        self._asked = asked
        self._optional = optional
        self._pace = pace
        self._clock = clock or asyncio.get_running_loop().time
        self._dice = dice
        self._backoff = 0.0
        self._forgotten = False
        """Whether the server answered 410 and no watch has lasted since."""

    @property
    def objects(self) -> dict[Key, Kept]:
        """The cached objects by name."""
        return self.cache.objects

    @property
    def synced(self) -> bool:
        """Whether `objects` began with a complete list, from the server or from the last-known file."""
        return self.cache.synced

    @property
    def answered(self) -> bool:
        """Whether the server has listed the objects, or answered that it will not (403, 404)."""
        return self.synced or self._refused

    @property
    def current(self) -> bool:
        """The same, and the answer is not from the last-known file."""
        return self.listed or self._refused

    @property
    def _refused(self) -> bool:
        definite = (ApiFault.FORBIDDEN, ApiFault.NOT_FOUND)
        return self.failure is not None and self.failure.fault in definite

    def recall(self, objects: Mapping[Key, Kept], since: float) -> None:
        """Use `objects`, current at `since` by the monotonic clock, until the first list."""
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
                # An object of an unforeseen form must not end the reflector: it is logged, and the watch
                # goes on.
                log.exception("cannot follow: unexpected form of an object", query=str(self.query))
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
            self._followed()
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
            # A server that accepts watches and ends them at once is failing too.
            await asyncio.sleep(self._next_backoff())
        elif lasted < timeout - self._pace.settled:
            # The server is stopping and ends all watches: spread the new ones.
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
        self._followed()
        if changed:
            self._changed()

    def _followed(self) -> None:
        if self.stale_since is not None:
            log.info("API server answers again", query=str(self.query))
        elif self.failure is None:
            return
        self.stale_since = self.failure = None
        self._changed()

    async def _pause(self, error: ApiError) -> None:
        """Note a failure, and wait before the next attempt."""
        self._asked.faults[error.fault] += 1
        if error.fault is ApiFault.GONE:
            self.cache.forget_version()
            if not self._forgotten:
                # The server is well, but may answer 410 to all of its clients at once: spread the lists.
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
        # Many clients get the same `Retry-After` at the same moment: spread them.
        asked_for = (error.retry_after or 0.0) * (1 + self._dice())
        await asyncio.sleep(max(self._next_backoff(), asked_for))

    def _next_backoff(self) -> float:
        self._backoff = min(max(2 * self._backoff, self._pace.first), self._pace.longest)
        return self._backoff * (0.5 + self._dice() / 2)
