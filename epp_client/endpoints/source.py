"""EndpointSource: publishes a pool without Kubernetes objects, and follows its file and picker's name.

A file with an error keeps its last valid content, and is reported as a problem.
"""

import asyncio
from collections.abc import Callable

from epp_client.endpoints.checks import HealthChecks, Target, unready
from epp_client.endpoints.listed import ListedPool, given_endpoints, pool_of, resolve_listed
from epp_client.endpoints.parse import parse_endpoints
from epp_client.errors import SettingsError
from epp_client.files import Read, log_new, name_of, read_file, watch
from epp_client.lookups import LookUp, Lookups, look_up
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.picker_host import host_to_look_up
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.resolve import PoolResolution
from epp_client.pool.settings import PoolSettings
from epp_client.pool.source import Listed, LocalSource, Reloaded
from epp_client.pool.store import PoolStore
from epp_client.settings import EndpointSettings

FIRST_ROUND = 3.0
"""Upper bound in seconds of the wait for the first check of every endpoint."""
GATHER = 0.02
"""Seconds that a change of an endpoint's health waits for further ones, which are published together."""


def load(
    settings: EndpointSettings, defaults: PoolSettings, read: Read = read_file
) -> tuple[tuple[ListedPool, ...] | None, tuple[Problem, ...]]:
    """The pools that the options and their file give, and the problems of the file. None: the file has an
    error.

    Raises:
        SettingsError: the file has several pools, and an option describes one.
    """
    if settings.endpoints is None:
        return (pool_of(settings, defaults, given_endpoints(settings)),), ()
    found = read(settings.endpoints)
    if isinstance(found, Problem):
        return None, (found,)
    parsed = parse_endpoints(found, name_of(settings.endpoints), defaults, settings)
    if parsed.pools is not None:
        settings.check_several(settings.endpoints)
        return parsed.pools, parsed.problems
    if parsed.endpoints is None:
        return None, parsed.problems
    return (pool_of(settings, defaults, parsed.endpoints),), parsed.problems


class EndpointSource(LocalSource):
    """Keeps a store in step with the pools of the options and their file."""

    def __init__(
        self,
        settings: EndpointSettings,
        store: PoolStore,
        defaults: PoolSettings,
        clock: Callable[[], float],
        listed: Listed = lambda _: None,
        look_up: LookUp = look_up,
        reloaded: Reloaded = lambda _: None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._defaults = defaults
        self._clock = clock
        self._listed = listed
        self._reloaded = reloaded
        self._lookups = Lookups(look_up)
        self._pools: tuple[ListedPool, ...] | None = None
        self._faults: tuple[Problem, ...] = ()
        self._last: dict[PoolName, PoolResolution] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._checks: HealthChecks | None = None
        self._published = False
        self._soon: asyncio.TimerHandle | None = None

    async def reload(self) -> None:
        """Read the file, look up the pickers' hosts, wait for the first health checks, and publish."""
        await self._read()
        await self._lookups.refresh(self._hosts)
        if self._checks is not None:
            await self._checks.first_round(FIRST_ROUND)
        self._publish()
        self._published = True

    async def _read(self) -> None:
        try:
            pools, self._faults = await asyncio.to_thread(load, self._settings, self._defaults)
        except SettingsError as error:
            if self._pools is None:
                raise
            pools, self._faults = None, (Problem(Severity.ERROR, str(error)),)
        if pools is not None:
            self._pools = pools
            self._check_endpoints()
        if self._settings.endpoints is not None:
            self._reloaded(pools is not None)

    def _check_endpoints(self) -> None:
        if self._checks is not None:
            targets = {
                Target(pool.check, endpoint.key)
                for pool in self._pools or ()
                if pool.check is not None
                for endpoint in pool.endpoints
            }
            self._checks.follow(targets)

    @property
    def _hosts(self) -> set[str]:
        """The names of pickers' hosts."""
        found = (host_to_look_up(listed.pool.picker) for listed in self._pools or ())
        return {host for host in found if host is not None}

    def _publish(self) -> None:
        """Resolve the pools at the current time, and publish them."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        now = self._clock()
        self._last = {
            listed.pool.name: resolve_listed(
                listed,
                self._lookups.of(listed.pool.picker),
                self._last.get(listed.pool.name),
                now,
                self._unready(listed),
            )
            for listed in self._pools or ()
        }
        problems = (
            *self._faults,
            *(problem for found in self._last.values() for problem in found.problems),
        )
        log_new(self._faults, self._store, "problem in a file of endpoints")
        if self._pools is None:
            # Nothing could be read: unknown pools are not deleted pools.
            self._store.problems = problems
        else:
            snapshots = {name: found.snapshot for name, found in self._last.items()}
            self._store.publish(snapshots, problems)
            self._listed("")
        self._wait_for_drain(now)

    def _unready(self, listed: ListedPool) -> dict[str, str]:
        if self._checks is None or listed.check is None:
            return {}
        keys = (endpoint.key for endpoint in listed.endpoints)
        return unready(self._checks, listed.check, keys)

    def _health_changed(self) -> None:
        # Several may change in one turn of the event loop, and during the first round nothing is published.
        if self._published and self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(GATHER, self._publish)

    def _wait_for_drain(self, now: float) -> None:
        """Publish again when the first drain grace ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends = [found.next_change for found in self._last.values()]
        at = min((end for end in ends if end is not None), default=None)
        if at is not None:
            delay = max(0.0, at - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self._publish)

    # --- as a PoolSource ---

    @property
    def where(self) -> str:
        """The file of endpoints, or the options."""
        return str(self._settings.endpoints or "--endpoint")

    async def run(self) -> None:
        """Follow the file and the picker's name until cancelled. No task is left running then.

        Raises:
            ManifestError: the directory of the file cannot be watched.
            SettingsError: see `load`.
        """
        edited = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []
        if self._settings.endpoints is not None:
            # Let the watch begin before the first load, so that no edit is missed.
            tasks.append(asyncio.create_task(watch(self._settings.endpoints, edited)))
            await asyncio.sleep(0)
        self._checks = HealthChecks(self._health_changed)
        try:
            await self.reload()
            tasks += [
                asyncio.create_task(self._follow_file(edited)),
                asyncio.create_task(self._follow_hosts()),
            ]
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            self._published = False
            await self._checks.close()
            for timer in (self._timer, self._soon):
                if timer is not None:
                    timer.cancel()

    async def _follow_file(self, edited: asyncio.Event) -> None:
        while True:
            await edited.wait()
            edited.clear()
            await self._read()
            self._publish()
            if self._lookups.lacks(self._hosts):
                await self._lookups.refresh(self._hosts)
                self._publish()

    async def _follow_hosts(self) -> None:
        while True:
            await asyncio.sleep(self._lookups.pause)
            if await self._lookups.refresh(self._hosts):
                self._publish()
