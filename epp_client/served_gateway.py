"""ServedGateway: the Gateway of a sidecar, between the API server, Envoy, readiness and the admin page.

It holds no logic of the parts themselves.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from epp_client.admin.server import Readiness
from epp_client.gateway.table import GatewayTable

if TYPE_CHECKING:
    # They take 70 MB: imported only if used.
    from epp_client.gateway.world import GatewayResolution
    from epp_client.kubernetes.gateway import GatewayUse, KubernetesGateway

Serve = Callable[[GatewayTable | None], None]

NOT_KNOWN = "the Gateway has not been read yet"


class ServedGateway:
    """Connects whoever follows the Gateway with whoever configures Envoy."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._serve: Serve = lambda _: None
        self._acknowledged: Callable[[], bool | None] = lambda: None
        self._source: KubernetesGateway | None = None

    def connect(self, serve: Serve, acknowledged: Callable[[], bool | None]) -> None:
        """Give tables to `serve` from now on. `acknowledged` is whether Envoy has the newest one."""
        self._serve, self._acknowledged = serve, acknowledged

    def use(self) -> "GatewayUse":
        """Where the source's tables go. Not ready until the first one is known."""
        from epp_client.kubernetes.gateway import GatewayUse

        return GatewayUse(
            lambda table: self._serve(table), lambda: self._acknowledged(), self._listed
        )

    def follow(self, source: "KubernetesGateway | None") -> None:
        """Note the source of the table; None without --gateway."""
        self._source = source
        if source is not None and source.source is not None:
            self._readiness.set("gateway", ok=False, reason=NOT_KNOWN)

    def told(self) -> None:
        """Note that what Envoy has acknowledged has changed."""
        if self._source is not None:
            self._source.told()

    @property
    def resolution(self) -> "GatewayResolution | None":
        """What is served; None without a Gateway of ours."""
        return self._source.resolution if self._source is not None else None

    def _listed(self, missing: str) -> None:
        self._readiness.set("gateway", ok=not missing, reason=missing)
