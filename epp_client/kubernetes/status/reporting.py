"""Reporting: connects and runs the parts that report status for one Gateway: that of InferencePools, and if
the Gateway is ours, its own and that of its class and its HTTPRoutes.

Nothing here is needed to serve a request.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.follow.gateway import GatewaySource
from epp_client.kubernetes.follow.routes import RouteSource
from epp_client.kubernetes.follow.source import KubernetesSource
from epp_client.kubernetes.status.acknowledgement import Acknowledgement
from epp_client.kubernetes.status.findings import Inputs, said_of_pools
from epp_client.kubernetes.status.gateway_findings import GatewayFacts, said_of_gateway
from epp_client.kubernetes.status.gateway_merge import Address
from epp_client.kubernetes.status.lease import Terms, lease_name
from epp_client.kubernetes.status.lease_holder import TERMS, LeaseHolder
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.report import PACE, Pace, StatusReporter, WriteResult
from epp_client.kubernetes.status.subjects import Object, Said
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from epp_client.settings import DEFAULT_CONTROLLER

log = structlog.get_logger(__name__)

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Role:
    """The Gateway that status is reported for, and who reports it."""

    parent: Parent
    lease_namespace: str
    identity: str
    """Unique among all replicas, past and present."""
    addresses: tuple[Address, ...] = ()
    """At which clients reach the Gateway. Empty: somebody else writes them."""
    gateway_class: bool = True
    """Whether the conditions of the GatewayClass are reported."""

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
    """Competes for the Lease, and reports while it holds it."""

    def __init__(
        self,
        api: KubernetesApi,
        source: KubernetesSource,
        routes: RouteSource,
        store: PoolStore,
        defaults: PoolSettings,
        role: Role,
        count: Callable[[WriteResult], None],
        leads: Callable[[bool], None] = lambda _: None,
        pace: Pace = PACE,
        terms: Terms = TERMS,
        *,
        named: tuple[PoolName, ...] = (),
        gateway: GatewaySource | None = None,
        acknowledged: Callable[[], bool | None] = lambda: None,
    ) -> None:
        """`count` is called for each write, `leads` for each gain or loss of the Lease. `named` are pools
        that the command line names. `acknowledged` is whether Envoy has the newest table. Whoever builds it
        runs `source`, `routes` and `gateway`."""
        self._leads_changed = leads
        self._role = role
        self._holder = LeaseHolder(
            api, role.lease_namespace, role.lease, role.identity, self._lease_changed, terms
        )
        self._routes = routes
        self._gateway = gateway
        self._inputs = Inputs(store, defaults, lambda: source.pools, self._listed_routes, named)
        self._reporter = StatusReporter(api, self._said, lambda: self._holder.holds, count, pace)
        self._store = store
        self.acknowledgement = Acknowledgement(acknowledged, self._wake)
        self._ends: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        source.pools_changed.append(self._wake)
        routes.changed.append(self._wake)
        if gateway is not None:
            gateway.changed.append(self._gateway_changed)
        log.info("status reporting is on", gateway=str(role.parent.gateway), lease=role.lease)

    @property
    def leads(self) -> bool:
        """Whether this replica is the one that writes."""
        return self._holder.holds

    def start(self) -> None:
        """Start the tasks."""
        self._ends.append(self._store.subscribe(lambda _: self._wake()))
        parts = (self._holder.run(), self._reporter.run())
        self._tasks = [asyncio.create_task(part) for part in parts]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        self._wake()

    async def stop(self) -> None:
        """Stop the tasks and release the Lease, so that another replica reports at once."""
        while self._ends:
            self._ends.pop()()
        self.acknowledgement.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wake(self) -> None:
        self._reporter.wake()

    def _lease_changed(self) -> None:
        self._leads_changed(self._holder.holds)
        self._wake()

    def _gateway_changed(self) -> None:
        source = self._gateway
        if source is not None and source.resolution is not None:
            self.acknowledgement.published(source.resolution.statuses.gateway.generation)
        self._wake()

    def _listed_routes(self) -> Collection[Object] | None:
        """The listed routes; None while a list is missing, for example refused."""
        routes = self._routes.listed
        return None if routes is None else routes.values()

    def _said(self) -> Said:
        """What is to be said now: of the Gateway first, as others wait for it."""
        pools = said_of_pools(self._inputs, self._role.parent)
        if (facts := self._facts()) is None:
            return pools
        gateway = said_of_gateway(facts, self._role.parent)
        return Said(gateway.objects | pools.objects, gateway.wanted | pools.wanted)

    def _facts(self) -> GatewayFacts | None:
        source, routes = self._gateway, self._routes.listed
        if source is None or routes is None or (source.statuses is None and not source.disowned):
            return None
        return GatewayFacts(
            source.statuses,
            source.gateway,
            source.gateway_class if self._role.gateway_class else None,
            routes,
            source.resolved_generation,
            self.acknowledgement.state(),
            self._role.addresses,
        )

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("status reporting failed; requests are still served", error=repr(error))
