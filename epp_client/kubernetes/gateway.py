"""KubernetesGateway: connects the parts for the Gateway of `--gateway`: its routes, its table, its status.

Only the status is reported for a Gateway that another implementation serves.
"""

import asyncio
import ipaddress
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from epp_client.errors import ApiError
from epp_client.gateway.resolve import resolve_gateway
from epp_client.gateway.table import GatewayName, GatewayTable
from epp_client.gateway.world import GatewayResolution
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.follow.gateway import GatewaySource
from epp_client.kubernetes.follow.last_known import Memory
from epp_client.kubernetes.follow.queries import Scope
from epp_client.kubernetes.follow.reflector import PACE as REFLECTOR_PACE
from epp_client.kubernetes.follow.reflector import Pace as ReflectorPace
from epp_client.kubernetes.follow.reflector import Reflector
from epp_client.kubernetes.follow.routes import RouteSource
from epp_client.kubernetes.follow.source import FIRST_PUBLICATION, KubernetesSource
from epp_client.kubernetes.status.gateway_merge import Address
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.report import PACE, Pace, WriteResult
from epp_client.kubernetes.status.reporting import Reporting, Role, own_identity, own_namespace
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import PoolSettings
from epp_client.pool.source import Listed
from epp_client.pool.store import PoolStore
from epp_client.settings import KubernetesSettings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GatewayUse:
    """Where the table of a Gateway goes."""

    serve: Callable[[GatewayTable | None], None]
    """Gets each new table. None: the API server does not let us know whether the Gateway is ours."""
    acknowledged: Callable[[], bool | None]
    """Whether Envoy has the newest table; None without an Envoy. Changes are told to `told`."""
    listed: Listed


class KubernetesGateway:
    """Follows the Gateway, and reports status if the settings say so."""

    def __init__(
        self,
        settings: KubernetesSettings,
        api: KubernetesApi,
        source: KubernetesSource,
        scope: Scope,
        store: PoolStore,
        defaults: PoolSettings,
        clock: Callable[[], float],
        count: Callable[[WriteResult], None],
        use: GatewayUse | None = None,
        pace: Pace = PACE,
        reflector_pace: ReflectorPace = REFLECTOR_PACE,
        patience: float = FIRST_PUBLICATION,
    ) -> None:
        """`count` is called for each write of a status. Without `use` only the status of InferencePools is
        reported."""
        assert settings.gateway is not None
        self._store = store
        name = GatewayName(*settings.gateway.split("/", 1))
        self.routes = RouteSource(api, scope, source.asked, reflector_pace, clock)
        self.source: GatewaySource | None = None
        if use is not None and settings.serve_gateway:
            self.source = GatewaySource(
                api,
                name,
                settings.controller_name,
                scope,
                self.routes,
                lambda: source.known,
                self._synced,
                resolve_gateway,
                use.serve,
                clock,
                source.asked,
                use.listed,
                reflector_pace,
                patience,
            )
            source.pools_changed.append(self.source.wake)
        self.reporting: Reporting | None = None
        if settings.status:
            self.reporting = Reporting(
                api,
                source,
                self.routes,
                store,
                defaults,
                _role(settings, name),
                count,
                pace=pace,
                named=scope.pools,
                gateway=self.source,
                acknowledged=use.acknowledged if use is not None else lambda: None,
            )
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: list[Callable[[], None]] = []

    def _synced(self, pool: PoolName) -> bool:
        snapshot = self._store.snapshots.get(str(pool))
        return snapshot is not None and snapshot.synced

    # --- life ---

    def start(self) -> None:
        """Start the tasks."""
        if self.source is not None:
            self._ends.append(self._store.subscribe(self._pools_synced))
            self._tasks.append(asyncio.create_task(self.source.run()))
        self._tasks.append(asyncio.create_task(self.routes.run()))
        for task in self._tasks:
            task.add_done_callback(self._ended)
        if self.reporting is not None:
            self.reporting.start()

    async def retire(self) -> None:
        """Stop reporting status, so that another replica can. The Gateway is still followed."""
        if self.reporting is not None:
            await self.reporting.stop()

    async def stop(self) -> None:
        """Stop everything. No task is left running."""
        await self.retire()
        while self._ends:
            self._ends.pop()()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _pools_synced(self, _: set[PoolName]) -> None:
        if self.source is not None and self.source.waits:
            self.source.wake()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "the Gateway is not followed any more; serving its last routes", error=repr(error)
            )

    # --- state ---

    def told(self) -> None:
        """Note that what Envoy has acknowledged has changed."""
        if self.reporting is not None:
            self.reporting.acknowledgement.told()

    @property
    def resolution(self) -> GatewayResolution | None:
        """What is served for the Gateway; None while it is not ours, or not known."""
        return self.source.resolution if self.source is not None else None

    @property
    def edition(self) -> int:
        """A number that grows with every change."""
        return self.source.edition if self.source is not None else 0

    @property
    def current(self) -> bool:
        """Whether what is served is as the API server has it now."""
        return self.source is None or self.source.current

    def stale(self) -> float:
        """Seconds since some resource could not be followed; 0 when all are."""
        return self.source.stale() if self.source is not None else 0.0

    def failures(self) -> list[ApiError]:
        """Errors of the resources that cannot be followed, each text once."""
        return self.source.failures() if self.source is not None else []

    def remembered(self) -> Iterable[Reflector[Any]]:
        """The reflectors for the last-known file: no Secrets."""
        return self.source.remembered() if self.source is not None else ()

    def recall(self, memory: Memory) -> None:
        """Use `memory` for every query that the server has not listed."""
        if self.source is not None:
            self.source.recall(memory)


def _role(settings: KubernetesSettings, gateway: GatewayName) -> Role:
    return Role(
        Parent(gateway, settings.controller_name),
        settings.lease_namespace or own_namespace() or gateway.namespace,
        own_identity(),
        tuple(
            map(_address, settings.gateway_addresses or filter(None, [os.environ.get("POD_IP")]))
        ),
        settings.gateway_class_status,
    )


def _address(value: str) -> Address:
    """An address of `status.addresses` with its type."""
    try:
        return Address("IPAddress", str(ipaddress.ip_address(value.strip("[]"))))
    except ValueError:
        return Address("Hostname", value)
