"""GatewaySource: follows one Gateway and resolves it into its route table. Never writes to the server.

It watches the Gateway, its GatewayClass, ReferenceGrants, and what the Gateway and its routes refer to:
Services, EndpointSlices, Secrets, and the labels of namespaces if a listener selects by them. Level-based:
reflectors keep state, a change wakes it, and the whole is resolved again from what is known.

The Gateway is ours if its GatewayClass has our controller name. Otherwise nothing is served for it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog

from epp_client.errors import ApiError
from epp_client.gateway.statuses import Statuses
from epp_client.gateway.table import GatewayName, GatewayTable
from epp_client.gateway.world import GatewayResolution, GatewayWorld, Object, References
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import (
    GATEWAY,
    GATEWAY_CLASS,
    REFERENCE_GRANT,
    SECRET,
)
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.follow.gateway_queries import class_query, gateway_query, referred
from epp_client.kubernetes.follow.gateway_world import (
    Own,
    pools_of,
    with_known_certificates,
    world_of,
)
from epp_client.kubernetes.follow.last_known import Memory
from epp_client.kubernetes.follow.queries import Query, Scope, kept
from epp_client.kubernetes.follow.reflector import PACE, Asked, Pace, Reflector
from epp_client.kubernetes.follow.reflectors import Reflectors, failures, stale, unlisted
from epp_client.kubernetes.follow.routes import RouteSource
from epp_client.kubernetes.follow.source import (
    COALESCE,
    COOLDOWN,
    FIRST_PUBLICATION,
    MAX_COOLDOWN,
)
from epp_client.kubernetes.follow.specifications import Specifications
from epp_client.kubernetes.follow.standing import Standing, class_name, standing_by_class
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.problems import Severity

log = structlog.get_logger(__name__)

Resolve = Callable[[GatewayWorld, GatewayResolution | None], GatewayResolution]
Publish = Callable[[GatewayTable | None], None]

_OPTIONAL = (GATEWAY, GATEWAY_CLASS, REFERENCE_GRANT)
"""Kinds that count as empty where the server does not serve them."""


class GatewaySource:
    """Keeps the table of one Gateway in step with an API server."""

    def __init__(
        self,
        api: KubernetesApi,
        name: GatewayName,
        controller: str,
        scope: Scope,
        routes: RouteSource,
        pools: Callable[[], Collection[PoolName] | None],
        synced: Callable[[PoolName], bool],
        resolve: Resolve,
        publish: Publish,
        clock: Callable[[], float],
        asked: Asked,
        listed: Callable[[str], None] = lambda _: None,
        pace: Pace = PACE,
        patience: float = FIRST_PUBLICATION,
    ) -> None:
        """`pools` returns the InferencePools that exist, None before they have been listed, and `synced`
        whether the endpoints of one are known. `publish` gets a table without listeners while the Gateway
        is not ours, and None if that is not known for sure. `listed` is called after every turn with a text
        of what is missing for the first table. A new reference is waited for `patience` seconds at most."""
        self.name = name
        self.controller = controller
        self.standing = Standing.UNKNOWN
        self.resolution: GatewayResolution | None = None
        """The last published one; None while the Gateway is not ours."""
        self.table: GatewayTable | None = None
        """The table that is served."""
        self.changed: list[Callable[[], None]] = []
        """Called after every turn, and after every change of a status."""
        self.edition = 0
        """A number that grows with every turn."""
        self._api = api
        self._routes = routes
        self._pools, self._synced = pools, synced
        self._resolve, self._publish = resolve, publish
        self._clock, self._pace, self._patience = clock, pace, patience
        self._asked, self._listed = asked, listed
        self._wake = asyncio.Event()
        self._memory: Memory | None = None
        self._class: str | None = None
        """The GatewayClass that made the Gateway ours."""
        self._published = False
        self._waiting: dict[Query | PoolName, float] = {}
        """Since when the answer to a new query, or the endpoints of a pool, are missing."""
        self._complete = False
        """Whether all that the published state depends on is from the API server."""
        self._dirty = True
        """Whether an object has changed since the last resolution, apart from routes and pools."""
        self._pool_names: frozenset[PoolName] = frozenset()
        self._draft: GatewayResolution | None = None
        """The last resolution, published or not."""
        self._gateways, self._route_specs, self._grants = (Specifications() for _ in range(3))
        self._resolved: Mapping[Key, int] = {}
        self._root = gateway_query(name)
        self._grant_queries = scope.everywhere(REFERENCE_GRANT, name.namespace)
        self._reflectors = Reflectors[GatewayName](self._reflector, lambda _: self._touched())
        routes.changed.append(self.wake)

    # --- for other parts ---

    @property
    def statuses(self) -> Statuses | None:
        """What is to be said of the published state; None while something that it depends on is not known
        from the API server."""
        if self.resolution is None or not self._complete:
            return None
        return self.resolution.statuses

    def resolved_generation(self, route: Key) -> int | None:
        """The generation of an HTTPRoute that `statuses` are about; None if it was not known."""
        return self._resolved.get(route)

    @property
    def gateway(self) -> Object | None:
        """The newest Gateway object; None if there is none, or before it is known."""
        found = self._objects(self._root)
        return next(iter(found.values()), None)

    @property
    def gateway_class(self) -> Object | None:
        """The newest GatewayClass object of the Gateway; None if there is none, or before it is known."""
        gateway = self.gateway
        found = {} if gateway is None else self._objects(class_query(gateway))
        return next(iter(found.values()), None)

    @property
    def waits(self) -> bool:
        """Whether something that the table refers to is waited for."""
        return bool(self._waiting)

    @property
    def disowned(self) -> bool:
        """Whether the API server says that there is no such Gateway, or that it is another's."""
        return self.standing is Standing.FOREIGN and self._denied

    @property
    def _denied(self) -> bool:
        root = self._reflectors.get(self._root)
        if root is None or not root.listed:
            return False
        return self.gateway is None or self.gateway_class is not None

    def wake(self) -> None:
        """Look at everything again: routes or pools have changed."""
        self._wake.set()

    def stale(self) -> float:
        """Seconds since some resource could not be followed; 0 when all are, or the Gateway is not ours."""
        return 0.0 if self.standing is Standing.FOREIGN else stale(self._all(), self._clock())

    def failures(self) -> list[ApiError]:
        """Errors of the resources that cannot be followed, each text once."""
        return [] if self.standing is Standing.FOREIGN else failures(self._all())

    @property
    def current(self) -> bool:
        """Whether what is served is as the API server has it now."""
        if self.standing is Standing.UNKNOWN:
            return False
        return all(reflector.current for reflector in self._all()) and not self.stale()

    def remembered(self) -> list[Reflector[Any]]:
        """The reflectors for the last-known file. Secrets are never written to a disk."""
        return [r for r in self._all() if r.query.resource is not SECRET]

    def recall(self, memory: Memory) -> None:
        """Use `memory` for every query that the server has not listed. Lists replace it."""
        self._memory = memory
        self._routes.recall(memory)
        for reflector in self._reflectors:
            self._remind(reflector)

    def _all(self) -> list[Reflector[Any]]:
        return [*self._reflectors, *self._routes.reflectors]

    # --- following ---

    def _reflector(self, query: Query, changed: Callable[[], None]) -> Reflector[Any]:
        made: Reflector[Any] = Reflector(
            self._api,
            query,
            kept(query),
            changed,
            self._asked,
            optional=query.resource in _OPTIONAL,
            pace=self._pace,
            clock=self._clock,
        )
        self._remind(made)
        return made

    def _remind(self, reflector: Reflector[Any]) -> None:
        memory = self._memory
        if memory is not None and (objects := memory.objects(reflector.query)) is not None:
            reflector.recall(objects, memory.at)

    def _touched(self) -> None:
        self._dirty = True
        self._wake.set()

    def _objects(self, query: Query) -> Mapping[Key, Any]:
        reflector = self._reflectors.get(query)
        return {} if reflector is None else reflector.objects

    async def run(self) -> None:
        """Follow until cancelled. No task is left running then. Somebody else runs the routes."""
        self._reflectors.refer(self.name, [self._root])
        self._wake.set()
        try:
            while True:
                await self._changed()
                began = self._clock()
                try:
                    self._turn(began)
                except Exception:
                    # An object of an unforeseen form must not end the following of all others.
                    log.exception("cannot resolve the Gateway; its last routes are served")
                await asyncio.sleep(min(MAX_COOLDOWN, COOLDOWN * (self._clock() - began)))
        finally:
            await self._reflectors.stop()

    async def _changed(self) -> None:
        """Wait until something has changed, or a reference has been waited for long enough."""
        ends = [since + self._patience for since in self._waiting.values()]
        at = min((end for end in ends if end > self._clock()), default=None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if at is None else at - self._clock()):
                await self._wake.wait()
                await asyncio.sleep(COALESCE)
        self._wake.clear()

    def _turn(self, now: float) -> None:
        """Resolve what has changed, and publish it."""
        self.edition += 1
        missing = ""
        standing = self._stand()
        if standing is Standing.UNKNOWN:
            missing = unlisted(self._reflectors)
        elif standing is Standing.FOREIGN:
            self._not_ours()
        else:
            missing = self._ours(now)
        if standing is not Standing.UNKNOWN:
            self._settle(standing)
        if not self.stale():
            # All queries have been listed; later queries begin with a list.
            self._memory = None
        self._listed("" if self._published else missing)
        for told in self.changed:
            told()

    def _stand(self) -> Standing:
        """Whose the Gateway is now."""
        root = self._reflectors[self._root]
        gateway = self.gateway
        if gateway is None:
            self._class = None
            return Standing.FOREIGN if root.answered else Standing.UNKNOWN
        query = class_query(gateway)
        self._reflectors.refer(self.name, [query])
        answered = self._reflectors[query].answered
        standing = standing_by_class(
            gateway, self.gateway_class, answered, self.controller, self._class
        )
        if standing is not Standing.UNKNOWN:
            self._class = class_name(gateway) if standing is Standing.OURS else None
        return standing

    def _settle(self, standing: Standing) -> None:
        if standing is not self.standing:
            what = {
                Standing.OURS: "serving the Gateway",
                Standing.FOREIGN: "the Gateway is not served: it does not exist, or its class has"
                " another controller",
            }
            log.info(what[standing], gateway=str(self.name), controller=self.controller)
        self.standing = standing

    def _not_ours(self) -> None:
        """Publish that nothing is served, and follow no more than needed to notice a change."""
        served = self.resolution is not None
        self.resolution = self._draft = None
        self._resolved, self._waiting, self._complete = {}, {}, False
        if served or self._denied:
            # Its listeners go.
            self._put(GatewayTable(self.name))
        elif not self._published:
            self._put(None)
        gateway = self.gateway
        classes = [] if gateway is None else [class_query(gateway)]
        self._reflectors.release(self.name, exclude=[self._root, *classes])

    def _ours(self, now: float) -> str:
        """Resolve and publish. Returns what is missing, which delays the table."""
        gateway, routes, pools = self.gateway, self._routes.known, self._pools()
        assert gateway is not None
        if pools is None:
            return "not listed yet: InferencePools"
        self._reflectors.refer(self.name, self._grant_queries)
        lacking = [q for q in self._grant_queries if not self._reflectors[q].synced]
        if routes is None or lacking:
            return unlisted([*self._routes.reflectors, *map(self._reflectors.__getitem__, lacking)])
        draft = self._drafted(gateway, routes, frozenset(pools))
        wanted = self._wanted(gateway, draft)
        self._reflectors.refer(self.name, wanted)
        unanswered = [query for query in wanted if not self._reflectors[query].answered]
        missing: list[Query | PoolName] = [*unanswered, *self._unsynced(draft)]
        self._waiting = {item: self._waiting.get(item, now) for item in missing}
        if not unanswered:
            # The old queries stay until the new ones have been answered.
            self._reflectors.release(self.name, exclude=wanted)
        if waits := [item for item, since in self._waiting.items() if now < since + self._patience]:
            return f"not listed yet: {waits[0]}"
        self._complete = not missing and all(reflector.current for reflector in self._all())
        self._accept(draft)
        return ""

    def _drafted(
        self, gateway: Object, routes: Mapping[Key, Object], pools: frozenset[PoolName]
    ) -> GatewayResolution:
        """The resolution of what is known now."""
        grants = {
            key: grant for q in self._grant_queries for key, grant in self._objects(q).items()
        }
        changed = [
            self._gateways.update({Key(*self.name): gateway}),
            self._route_specs.update(routes),
            self._grants.update(grants),
            pools != self._pool_names,
            self._dirty,
        ]
        draft = self._draft
        if draft is not None and not any(changed):
            return draft
        self._dirty, self._pool_names = False, pools
        own = Own(self._gateways.objects[0], self._route_specs.objects, self._grants.objects, pools)
        references = References() if draft is None else draft.references
        draft = self._resolve(world_of(own, references, self._reflectors.get), draft)
        if draft.references != references:
            # Objects that are followed already are in the world at once.
            draft = self._resolve(world_of(own, draft.references, self._reflectors.get), draft)
        self._draft = draft
        return draft

    def _wanted(self, gateway: Object, draft: GatewayResolution) -> list[Query]:
        own = [self._root, *self._grant_queries, class_query(gateway)]
        return [*own, *referred(draft.references)]

    def _unsynced(self, draft: GatewayResolution) -> set[PoolName]:
        """The pools in the table that exist and whose endpoints are not known yet."""
        unsynced = {pool for pool in self._pool_names if not self._synced(pool)}
        if not unsynced:
            return unsynced
        return unsynced & pools_of(draft.table)

    def _accept(self, draft: GatewayResolution) -> None:
        """Publish the draft."""
        if draft is not self.resolution:
            known = () if self.resolution is None else self.resolution.problems
            for problem in draft.problems:
                if problem not in known:
                    emit = log.error if problem.severity is Severity.ERROR else log.warning
                    emit("problem in an object", problem=str(problem))
            self.resolution = draft
            self._resolved = self._route_specs.generations
        self._put(with_known_certificates(draft.table))

    def _put(self, table: GatewayTable | None) -> None:
        if not self._published or table != self.table:
            self._published, self.table = True, table
            self._publish(table)
