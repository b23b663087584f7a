"""Reporting: connects and runs the parts that report pool status for one Gateway.

Nothing here is needed to serve a request.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import HTTP_ROUTE
from epp_client.kubernetes.follow.cache import Object
from epp_client.kubernetes.follow.queries import Query, Scope
from epp_client.kubernetes.follow.reflector import PACE as REFLECTOR_PACE
from epp_client.kubernetes.follow.reflector import Pace as ReflectorPace
from epp_client.kubernetes.follow.reflector import Reflector
from epp_client.kubernetes.follow.source import KubernetesSource
from epp_client.kubernetes.status.findings import Inputs
from epp_client.kubernetes.status.lease import Terms, lease_name
from epp_client.kubernetes.status.lease_holder import TERMS, LeaseHolder
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.report import PACE, Pace, StatusReporter, WriteResult
from epp_client.kubernetes.status.routes import route_facts
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from epp_client.settings import DEFAULT_CONTROLLER

log = structlog.get_logger(__name__)

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Role:
    """The Gateway that status is reported for, and this replica's identity."""

    parent: Parent
    lease_namespace: str
    identity: str
    """Unique among all replicas, past and present."""

    @property
    def lease(self) -> str:
        """Name of the Lease that the replicas for one Gateway share."""
        return lease_name(self.parent, DEFAULT_CONTROLLER)


def own_namespace() -> str | None:
    """The namespace of our Pod; None outside a cluster."""
    try:
        return _NAMESPACE_FILE.read_text().strip() or None
    except OSError:
        return None


def own_identity() -> str:
    """A unique name of this process."""
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}"


class Reporting:
    """Watches HTTPRoutes if the kind is installed, competes for the Lease, and reports while it holds
    it."""

    def __init__(
        self,
        api: KubernetesApi,
        source: KubernetesSource,
        scope: Scope,
        store: PoolStore,
        defaults: PoolSettings,
        role: Role,
        count: Callable[[WriteResult], None],
        leads: Callable[[bool], None] = lambda _: None,
        pace: Pace = PACE,
        reflector_pace: ReflectorPace = REFLECTOR_PACE,
        terms: Terms = TERMS,
    ) -> None:
        """`count` is called for each write, `leads` for each gain or loss of the Lease."""
        self._leads_changed = leads
        self._holder = LeaseHolder(
            api, role.lease_namespace, role.lease, role.identity, self._lease_changed, terms
        )
        self._routes = [
            Reflector[Object](
                api,
                query,
                route_facts,
                self._wake,
                source.asked,
                optional=True,
                pace=reflector_pace,
            )
            for query in _route_queries(scope)
        ]
        inputs = Inputs(store, defaults, lambda: source.pools, self._known_routes, scope.pools)
        self._reporter = StatusReporter(
            api, role.parent, inputs, lambda: self._holder.holds, count, pace
        )
        source.pools_changed = self._wake
        self._store = store
        self._ends: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        log.info("status reporting is on", gateway=str(role.parent.gateway), lease=role.lease)

    @property
    def leads(self) -> bool:
        """Whether this replica is the one that writes."""
        return self._holder.holds

    def start(self) -> None:
        """Start the tasks."""
        self._ends.append(self._store.subscribe(lambda _: self._wake()))
        parts = (self._holder.run(), self._reporter.run(), *(r.run() for r in self._routes))
        self._tasks = [asyncio.create_task(part) for part in parts]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        self._wake()

    async def stop(self) -> None:
        """Stop the tasks and release the Lease, so that another replica reports at once."""
        while self._ends:
            self._ends.pop()()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wake(self) -> None:
        self._reporter.wake()

    def _lease_changed(self) -> None:
        self._leads_changed(self._holder.holds)
        self._wake()

    def _known_routes(self) -> Iterable[Object] | None:
        """The listed routes; None while a list is missing, for example refused."""
        if not all(reflector.synced for reflector in self._routes):
            return None
        return [route for reflector in self._routes for route in reflector.objects.values()]

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("status reporting failed; requests are still served", error=repr(error))


def _route_queries(scope: Scope) -> list[Query]:
    """HTTPRoutes in the namespaces of the followed pools. RBAC need not grant more."""
    namespaces = dict.fromkeys([*scope.namespaces, *(pool.namespace for pool in scope.pools)])
    return [Query(HTTP_ROUTE, namespace) for namespace in namespaces] or [Query(HTTP_ROUTE)]
