"""KubernetesPools: an API server as the source of a sidecar's pools, and of the table of its Gateway. It
connects the parts of `kubernetes`.

The parts know nothing of each other's settings.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from epp_client.kubernetes.client.access import Access
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.follow.given import given_pool
from epp_client.kubernetes.follow.last_known import LastKnown, Memory
from epp_client.kubernetes.follow.queries import Scope
from epp_client.kubernetes.follow.source import KubernetesSource
from epp_client.kubernetes.gateway import GatewayUse, KubernetesGateway
from epp_client.kubernetes.status.report import WriteResult
from epp_client.kubernetes.status.reporting import Reporting, own_namespace
from epp_client.option_values import host_port
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import PoolSettings
from epp_client.pool.source import Listed
from epp_client.pool.store import PoolStore
from epp_client.settings import EndpointSettings, KubernetesSettings

log = structlog.get_logger(__name__)

SAVE_INTERVAL = 1.0
"""Seconds between two checks whether the last-known file has to be written."""
REFRESH_INTERVAL = 60.0
"""Seconds after which an unchanged file is written again, which renews its time stamp."""


class KubernetesPools:
    """Keeps a store in step with an API server, and reports how stale it is."""

    def __init__(
        self,
        settings: KubernetesSettings,
        store: PoolStore,
        defaults: PoolSettings,
        clock: Callable[[], float],
        listed: Listed,
        endpoints: EndpointSettings | None = None,
        use: GatewayUse | None = None,
    ) -> None:
        """`endpoints` may have the selector of a pool, which replaces the InferencePools, or the picker of
        the one InferencePool. `use` is where the table of a Gateway goes."""
        self._access = Access(settings.kubeconfig, settings.context)
        self._api = KubernetesApi(self._access)
        pools = tuple(PoolName(*name.split("/", 1)) for name in settings.named_pools)
        scope = Scope(settings.namespaces, pools)
        given = None
        if endpoints is not None and endpoints.selects:
            given = given_pool(endpoints, defaults, own_namespace())
            log.info(
                "no InferencePool is read: options give the pool",
                pool=str(given.name),
                selector=given.selector,
            )
        picker = None
        if endpoints is not None and endpoints.picker is not None and given is None:
            picker = host_port(endpoints.picker)
        self._source = KubernetesSource(
            self._api, scope, store, defaults, clock, listed, given=given, picker=picker
        )
        self._clock = clock
        self._last_known = LastKnown(settings.last_known) if settings.last_known else None
        self._remembering: asyncio.Task[None] | None = None
        self._writes: dict[str, int] = {str(result): 0 for result in WriteResult}
        self.gateway: KubernetesGateway | None = None
        if settings.gateway is not None:
            self.gateway = KubernetesGateway(
                settings, self._api, self._source, scope, store, defaults, clock, self._written, use
            )

    @property
    def where(self) -> str:
        """See PoolSource."""
        return "the cluster"

    async def run(self) -> None:
        """Follow until cancelled. No task is left running then.

        Raises:
            SettingsError: the API server's configuration is not usable.
        """
        await self._api.open()
        try:
            if self.gateway is not None:
                self.gateway.start()
            if self._last_known is not None:
                self._remembering = asyncio.create_task(self._remember(self._last_known))
            await self._source.run()
        finally:
            if self._remembering is not None:
                self._remembering.cancel()
                await asyncio.wait({self._remembering})
            if self.gateway is not None:
                await self.gateway.stop()
            await self._api.close()

    def recall(self) -> bool:
        """Load the last-known file for what the server has not listed. False if there is no usable file."""
        memory = self._last_known.load(self._clock()) if self._last_known is not None else None
        if memory is None:
            return False
        log.warning(
            "serving the last known pools until the API server answers",
            seconds=round(self._clock() - memory.at),
        )
        self._source.recall(memory)
        if self.gateway is not None:
            self.gateway.recall(memory)
        return True

    async def _remember(self, last_known: LastKnown) -> None:
        """Keep the last-known file current while the served state is."""
        saved, since = (0, 0), 0.0
        try:
            while True:
                await asyncio.sleep(SAVE_INTERVAL)
                edition, now = self._edition, self._clock()
                if self._current and (edition != saved or now - since > REFRESH_INTERVAL):
                    last_known.save(self._memory())
                    saved, since = edition, now
        finally:
            if self._current:
                last_known.save(self._memory())

    def _memory(self) -> Memory:
        more = self.gateway.remembered() if self.gateway is not None else ()
        return self._source.memory(more)

    @property
    def _edition(self) -> tuple[int, int]:
        return self._source.edition, self.gateway.edition if self.gateway is not None else 0

    @property
    def _current(self) -> bool:
        """Whether all served objects are as the API server has them now."""
        gateway = self.gateway is None or self.gateway.current
        return gateway and self._source.listed and not self._source.stale()

    async def retire(self) -> None:
        """Stop reporting status, so that another replica can. The pools are still followed."""
        if self.gateway is not None:
            await self.gateway.retire()

    def _written(self, result: WriteResult) -> None:
        self._writes[result] += 1

    def staleness(self) -> str:
        """For how long the served state has been stale, and why; empty when it is current."""
        seconds = self.stale()
        if not seconds:
            return ""
        failures = self._source.failures() + (self.gateway.failures() if self.gateway else [])
        why = next((self._access.without_path(str(error)) for error in failures), "")
        return f"stale for {seconds:.0f} s, serving the last known state: {why}"

    # --- for metrics, see ApiSource ---

    def stale(self) -> float:
        """Seconds since some resource could not be followed; 0 when all are."""
        return max(self._source.stale(), self.gateway.stale() if self.gateway else 0.0)

    def asked(self) -> Mapping[str, int]:
        """Number of lists and watches."""
        return {"list": self._source.asked.lists, "watch": self._source.asked.watches}

    def faults(self) -> Mapping[str, int]:
        """Number of failed calls by fault."""
        return {str(fault): count for fault, count in self._source.asked.faults.items()}

    def events(self) -> int:
        """Number of watch events."""
        return self._source.asked.events

    def status_writes(self) -> Mapping[str, int] | None:
        """Number of status writes by result; None when status is not reported."""
        return self._writes if self._reporting is not None else None

    @property
    def _reporting(self) -> Reporting | None:
        return self.gateway.reporting if self.gateway is not None else None

    def status_leader(self) -> bool:
        """Whether this replica is the one that writes status."""
        return self._reporting is not None and self._reporting.leads
