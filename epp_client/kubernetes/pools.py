"""KubernetesPools: an API server as the source of a sidecar's pools, from its settings to its end.

Puts the parts together; they are `api`, `source` and what they stand on.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from epp_client.kubernetes.client.access import Access
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.follow.last_known import LastKnown
from epp_client.kubernetes.follow.queries import Scope
from epp_client.kubernetes.follow.source import KubernetesSource
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.report import WriteResult
from epp_client.kubernetes.status.reporting import Reporting, Role, own_identity, own_namespace
from epp_client.kubernetes.status.routes import GatewayName
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import PoolSettings
from epp_client.pool.source import Listed
from epp_client.pool.store import PoolStore
from epp_client.settings import KubernetesSettings

log = structlog.get_logger(__name__)

REMEMBER = 1.0
"""Seconds between two looks at whether what is known has changed and is to be saved."""
REMEMBER_ANEW = 60.0
"""Seconds after which it is saved again, as true now."""


class KubernetesPools:
    """Keeps a store in step with an API server, and can say how well."""

    def __init__(
        self,
        settings: KubernetesSettings,
        store: PoolStore,
        defaults: PoolSettings,
        clock: Callable[[], float],
        listed: Listed,
    ) -> None:
        self._access = Access(settings.kubeconfig, settings.context)
        self._api = KubernetesApi(self._access)
        pools = tuple(PoolName(*name.split("/", 1)) for name in settings.named_pools)
        scope = Scope(settings.namespaces, pools)
        self._source = KubernetesSource(self._api, scope, store, defaults, clock, listed)
        self._clock = clock
        self._last_known = LastKnown(settings.last_known) if settings.last_known else None
        self._remembering: asyncio.Task[None] | None = None
        self._writes: dict[str, int] = {str(result): 0 for result in WriteResult}
        self._reporting: Reporting | None = None
        if (role := _role(settings)) is not None:
            self._reporting = Reporting(
                self._api, self._source, scope, store, defaults, role, self._written
            )

    @property
    def where(self) -> str:
        """See PoolSource."""
        return "the cluster"

    async def run(self) -> None:
        """Follow until cancelled; then end with nothing left running.

        Raises:
            SettingsError: the API server's configuration cannot be used.
        """
        await self._api.open()
        try:
            if self._reporting is not None:
                self._reporting.start()
            if self._last_known is not None:
                self._remembering = asyncio.create_task(self._remember(self._last_known))
            await self._source.run()
        finally:
            if self._remembering is not None:
                self._remembering.cancel()
                await asyncio.wait({self._remembering})
            await self.retire()
            await self._api.close()

    def recall(self) -> bool:
        """Go on from what an earlier process knew, where the server says nothing; whether there is any."""
        memory = self._last_known.load(self._clock()) if self._last_known is not None else None
        if memory is None:
            return False
        log.warning("the last known pools serve", seconds=round(self._clock() - memory.at))
        self._source.recall(memory)
        return True

    async def _remember(self, last_known: LastKnown) -> None:
        """Keep the file as new as what is served, while that is the newest."""
        saved, since = 0, 0.0
        try:
            while True:
                await asyncio.sleep(REMEMBER)
                edition, now = self._source.edition, self._clock()
                if self._current and (edition != saved or now - since > REMEMBER_ANEW):
                    last_known.save(self._source.memory())
                    saved, since = edition, now
        finally:
            if self._current:
                last_known.save(self._source.memory())

    @property
    def _current(self) -> bool:
        """Whether all that is served is as the API server has it now."""
        return self._source.pools is not None and not self._source.stale()

    async def retire(self) -> None:
        """Leave status to another replica from now on. Pools are followed all the same."""
        if self._reporting is not None:
            await self._reporting.stop()

    def _written(self, result: WriteResult) -> None:
        self._writes[result] += 1

    def staleness(self) -> str:
        """For how long what is served is not the newest, and why; empty when it is."""
        seconds = self._source.stale()
        if not seconds:
            return ""
        why = next((self._access.without_path(str(error)) for error in self._source.failures()), "")
        return f"stale for {seconds:.0f} s, the last state serves: {why}"

    # --- what metrics ask ---

    def stale(self) -> float:
        """Seconds for which something could not be followed; 0 when all can."""
        return self._source.stale()

    def asked(self) -> Mapping[str, int]:
        """Lists and watches so far."""
        return {"list": self._source.asked.lists, "watch": self._source.asked.watches}

    def faults(self) -> Mapping[str, int]:
        """Calls that failed so far, by fault."""
        return {str(fault): count for fault, count in self._source.asked.faults.items()}

    def events(self) -> int:
        """Events of watches so far."""
        return self._source.asked.events

    def status_writes(self) -> Mapping[str, int] | None:
        """Writes of status so far, by what became of them; None when none is reported."""
        return self._writes if self._reporting is not None else None

    def status_leader(self) -> bool:
        """Whether this replica is the one that writes status."""
        return self._reporting is not None and self._reporting.leads


def _role(settings: KubernetesSettings) -> Role | None:
    if settings.gateway is None or not settings.status:
        return None
    gateway = GatewayName(*settings.gateway.split("/", 1))
    namespace = settings.lease_namespace or own_namespace() or gateway.namespace
    return Role(Parent(gateway, settings.controller_name), namespace, own_identity())
