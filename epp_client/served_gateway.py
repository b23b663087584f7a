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
        self._serve: Serve | None = None
        self._source: KubernetesGateway | None = None

    def connect(self, serve: Serve) -> None:
        """Give tables to `serve` from now on."""
        self._serve = serve

    def use(self) -> "GatewayUse":
        """Where the source's tables go. Not ready until the first one is known."""
        from epp_client.kubernetes.gateway import GatewayUse

        return GatewayUse(self._serve_table, self._listed)

    def follow(self, source: "KubernetesGateway | None") -> None:
        """Note the source of the table; None without --gateway."""
        self._source = source
        if source is not None:
            self._readiness.set("gateway", ok=False, reason=NOT_KNOWN)

    def acknowledged(self, table: GatewayTable) -> None:
        """Note that an Envoy has acknowledged this table."""
        if self._source is not None:
            self._source.acknowledged(table)

    @property
    def resolution(self) -> "GatewayResolution | None":
        """What is served; None without a Gateway of ours."""
        return self._source.resolution if self._source is not None else None

    def _serve_table(self, table: GatewayTable | None) -> None:
        if self._serve is not None:
            self._serve(table)

    def _listed(self, missing: str) -> None:
        self._readiness.set("gateway", ok=not missing, reason=missing)
