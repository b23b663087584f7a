"""KubernetesSource: follows the pools of an API server and publishes their snapshots. Never writes to the
server.

It watches the InferencePools in scope, and what they refer to: the Pods of each selector, the Service and
EndpointSlices of each picker. Level-based: reflectors keep state, a change marks pools, and the state of
the marked pools is resolved and published. If options give a pool, it replaces the InferencePools.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from epp_client.errors import ApiError
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.follow.cache import Key, Object
from epp_client.kubernetes.follow.given import with_picker
from epp_client.kubernetes.follow.last_known import Memory, memory_of
from epp_client.kubernetes.follow.queries import Query, Scope, kept, references
from epp_client.kubernetes.follow.reflector import PACE, Asked, Pace, Reflector
from epp_client.kubernetes.follow.reflectors import Reflectors, failures, missing, stale
from epp_client.lookups import LookUp, Lookups, look_up
from epp_client.pool.inference_pool import (
    EndpointPickerRef,
    FailureMode,
    InferencePool,
    PoolName,
)
from epp_client.pool.parse import parse_inference_pool
from epp_client.pool.picker_host import host_ref, host_target, host_to_look_up, is_host
from epp_client.pool.picker_target import picker_target
from epp_client.pool.problems import Problem, Severity, dotted
from epp_client.pool.resolve import PoolResolution, by_options, resolve_pool
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.pool.store import PoolStore

log = structlog.get_logger(__name__)

COALESCE = 0.005
"""Seconds that a change waits for further ones, which are resolved together."""
COOLDOWN = 2.0
"""Seconds of pause per second of the last resolution: resolving takes at most a third of the process's
time."""
MAX_COOLDOWN = 0.1
"""Seconds of the longest pause."""
FIRST_PUBLICATION = 5.0
"""Seconds that the first publication waits for missing lists once the pools are known: without it a running
Envoy would lose clusters and endpoints that have not been listed yet."""


@dataclass(slots=True)
class _Pool:
    """One existing InferencePool."""

    data: Object
    parsed: InferencePool | None = None
    """The last valid version."""
    faults: tuple[Problem, ...] = ()
    resolution: PoolResolution | None = None


class KubernetesSource:
    """Keeps a store in step with an API server."""

    def __init__(
        self,
        api: KubernetesApi,
        scope: Scope,
        store: PoolStore,
        defaults: PoolSettings,
        clock: Callable[[], float],
        listed: Callable[[str], None] = lambda _: None,
        pace: Pace = PACE,
        first_publication: float = FIRST_PUBLICATION,
        given: InferencePool | None = None,
        picker: tuple[str, int] | None = None,
        look_up: LookUp = look_up,
    ) -> None:
        """`listed` is called after every resolution with a text of what is not listed yet. If a pool is
        `given`, no InferencePool is read. `picker` (host, port) takes the place of those of the
        InferencePools."""
        self.asked = Asked()
        self.pools_changed: list[Callable[[], None]] = []
        """Called after a change of `pools`, including their status, which snapshots do not have."""
        self._api = api
        self._store = store
        self._defaults = defaults
        self._clock = clock
        self._listed = listed
        self._pace = pace
        self._first_publication = first_publication
        self._publish_by: float | None = None
        """When the first publication happens even if lists are missing; None before any pool is known."""
        self._pools: dict[PoolName, _Pool] = {}
        self._wake = asyncio.Event()
        self._dirty: set[PoolName] = set()
        self._memory: Memory | None = None
        self.edition = 0
        """A number that grows with every resolution."""
        self._roots: list[Reflector[Object]] = [
            self._reflector(query, self._pools_changed)
            for query in scope.queries()
            if given is None
        ]
        self._lookups = Lookups(look_up)
        self._hosts: set[str] = set()
        """The name of the given picker, if it has to be looked up."""
        self._given_picker = picker
        if given is not None:
            self._pools[given.name] = _Pool({}, given)
            self._hosts.update(filter(None, [host_to_look_up(given.picker)]))
        if picker is not None:
            ref = host_ref(*picker, FailureMode.FAIL_CLOSE)
            self._hosts.update(filter(None, [host_to_look_up(ref)]))
        self._reflectors = Reflectors[PoolName](self._reflector, self._touched)

    # --- for other parts ---

    @property
    def pools(self) -> Mapping[PoolName, Object] | None:
        """The InferencePools as JSON objects; None before all have been listed."""
        if not all(root.listed for root in self._roots):
            return None
        return {name: pool.data for name, pool in self._pools.items()}

    @property
    def known(self) -> Collection[PoolName] | None:
        """The names of the InferencePools, from the API server or from the last-known file; None before
        they are known."""
        return self._pools.keys() if all(root.synced for root in self._roots) else None

    @property
    def listed(self) -> bool:
        """Whether the API server has listed the InferencePools, or all that the given pool refers to."""
        first = self._roots or [*self._reflectors]
        return bool(first) and all(reflector.listed for reflector in first)

    def stale(self) -> float:
        """Seconds since some resource could not be followed; 0 when all are."""
        return stale(self._all(), self._clock())

    def failures(self) -> list[ApiError]:
        """Errors of the resources that cannot be followed, each text once."""
        return failures(self._all())

    def _all(self) -> list[Reflector[Any]]:
        return [*self._roots, *self._reflectors]

    # --- following ---

    def _reflector(self, query: Query, changed: Callable[[], None]) -> Reflector[Any]:
        made: Reflector[Any] = Reflector(
            self._api, query, kept(query), changed, self.asked, pace=self._pace, clock=self._clock
        )
        self._remind(made)
        return made

    def memory(self, more: Iterable[Reflector[Any]] = ()) -> Memory:
        """All objects known now, and those of `more`, for the last-known file."""
        return memory_of([*self._all(), *more], self._clock())

    def recall(self, memory: Memory) -> None:
        """Use `memory` for every query that the server has not listed. Lists replace it."""
        self._memory = memory
        for reflector in self._all():
            self._remind(reflector)

    def _remind(self, reflector: Reflector[Any]) -> None:
        memory = self._memory
        if memory is not None and (objects := memory.objects(reflector.query)) is not None:
            reflector.recall(objects, memory.at)

    def _touched(self, pools: Iterable[PoolName]) -> None:
        self._dirty.update(pools)
        self._wake.set()

    def _pools_changed(self) -> None:
        self._touched(self._read_pools())
        for told in self.pools_changed:
            told()

    def _read_pools(self) -> set[PoolName]:
        """Update `_pools` from the reflectors, and return the names of changed pools."""
        now = {PoolName(*key): data for root in self._roots for key, data in root.objects.items()}
        changed = {name for name in self._pools if name not in now}
        for name in changed:
            del self._pools[name]
        for name, data in now.items():
            known = self._pools.get(name)
            if known is None:
                known = self._pools[name] = _Pool(data)
            elif known.data is data:
                continue
            changed.add(name)
            known.data = data
            parsed, faults = parse_inference_pool(data, self._defaults)
            if parsed is not None and self._given_picker is not None:
                parsed = with_picker(parsed, *self._given_picker)
            known.parsed = parsed or known.parsed
            serves = "; the last valid version is served" if not parsed and known.parsed else ""
            known.faults = tuple(
                Problem(f.severity, f.text + serves, f"InferencePool {name}", dotted(f.path))
                for f in faults
            )
        return changed

    async def run(self) -> None:
        """Follow the API server until cancelled. No task is left running then."""
        tasks = [asyncio.create_task(root.run()) for root in self._roots]
        if self._hosts:
            tasks.append(asyncio.create_task(self._follow_hosts()))
        if self._pools:
            # A given pool is known at once.
            self._touched(self._pools)
        try:
            while True:
                await self._changed()
                began = self._clock()
                self._resolve()
                await asyncio.sleep(min(MAX_COOLDOWN, COOLDOWN * (self._clock() - began)))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._reflectors.stop()

    async def _follow_hosts(self) -> None:
        while True:
            if await self._lookups.refresh(self._hosts):
                self._touched(self._pools)
            await asyncio.sleep(self._lookups.pause)

    async def _changed(self) -> None:
        """Wait until something has changed, a drain grace ends, or the first publication is due."""
        changes = [pool.resolution.next_change for pool in self._pools.values() if pool.resolution]
        publish_by = self._publish_by
        if not self._store.synced and publish_by is not None and self._clock() < publish_by:
            changes.append(publish_by)
        at = min((change for change in changes if change is not None), default=None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if at is None else max(0.0, at - self._clock())):
                await self._wake.wait()
                await asyncio.sleep(COALESCE)
        self._wake.clear()

    def _resolve(self) -> None:
        """Resolve the changed pools, and publish."""
        now = self._clock()
        dirty, self._dirty = self._dirty, set()
        self.edition += 1
        if not self.stale():
            # All queries have been listed; later queries begin with a list.
            self._memory = None
        for name, pool in self._pools.items():
            at = pool.resolution.next_change if pool.resolution else None
            if at is not None and at <= now:
                dirty.add(name)
        for name in dirty:
            self._follow(name, self._pools.get(name))
        for name in dirty & self._pools.keys():
            self._resolve_pool(name, self._pools[name], now)
        unlisted = missing(self._all())
        if not unlisted and self._lookups.lacks(self._hosts):
            unlisted = f"not looked up yet: {', '.join(self._hosts)}"
        if self._known:
            if self._publish_by is None:
                self._publish_by = now + self._first_publication
            if not unlisted or self._store.synced or now >= self._publish_by:
                self._publish()
        self._listed(unlisted)

    @property
    def _known(self) -> bool:
        """Whether something may be published. Unknown pools are not deleted pools: nothing is published
        before they have been listed. A given pool waits until the API server has answered."""
        if not self._roots:
            return any(reflector.answered for reflector in self._reflectors)
        answered = all(root.answered for root in self._roots)
        return answered and any(root.synced for root in self._roots)

    def _publish(self) -> None:
        snapshots: dict[PoolName, PoolSnapshot] = {}
        problems: list[Problem] = []
        for name, pool in self._pools.items():
            problems += pool.faults
            if pool.resolution is not None:
                snapshots[name] = pool.resolution.snapshot
                problems += pool.resolution.problems
            elif pool.parsed is not None:
                snapshots[name] = PoolSnapshot(pool.parsed, synced=False)
        problems += [
            Problem(Severity.WARNING, str(error), "Kubernetes API") for error in self.failures()
        ]
        unique = tuple(dict.fromkeys(problems))
        for problem in unique:
            if problem not in self._store.problems and problem.subject != "Kubernetes API":
                emit = log.error if problem.severity is Severity.ERROR else log.warning
                emit("problem in an object", problem=str(problem))
        self._store.publish(snapshots, unique)

    # --- one pool ---

    def _follow(self, name: PoolName, pool: _Pool | None) -> None:
        """Watch what the pool refers to now, and stop watching what it does not refer to any more."""
        if pool is None:
            self._reflectors.release(name)
            return
        wanted = references(pool.parsed) if pool.parsed is not None else ()
        self._reflectors.refer(name, wanted)
        if self._reflectors.answered(wanted):
            # The old queries stay until the new ones have been answered.
            self._reflectors.release(name, exclude=wanted)

    def _resolve_pool(self, name: PoolName, pool: _Pool, now: float) -> None:
        """Resolve the pool, unless something that it refers to has not been listed yet."""
        if pool.parsed is None:
            return
        queries = references(pool.parsed)
        if not self._reflectors.answered(queries):
            return
        pods = self._reflectors[queries[0]]
        if not pods.synced:
            # RBAC refused the list of Pods: unknown Pods are not the same as no Pods.
            return
        ref = pool.parsed.picker
        picker = None if ref is None else self._picker(ref, name.namespace, queries)
        found = resolve_pool(pool.parsed, list(pods.objects.values()), picker, pool.resolution, now)
        pool.resolution = found if self._roots else by_options(found)

    def _picker(
        self, ref: EndpointPickerRef, namespace: str, queries: tuple[Query, ...]
    ) -> PickerTarget:
        """The addresses of a pool's picker. `queries` are those of the pool, `namespace` is the pool's."""
        if is_host(ref):
            return host_target(ref, self._lookups.of(ref))
        namespace = ref.namespace or namespace
        services: Mapping[Key, Object] = {}
        slices: list[Object] = []
        if len(queries) > 1:
            services = self._reflectors[queries[1]].objects
            slices = list(self._reflectors[queries[2]].objects.values())
        service = services.get(Key(namespace, ref.name))
        picker = picker_target(ref, namespace, service, slices)
        refused = [self._reflectors[q].failure for q in queries[1:]]
        if picker.problem and (why := next(filter(None, refused), None)) is not None:
            picker = PickerTarget(problem=str(why))
        return picker
