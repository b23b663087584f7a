"""ServedGateway: the Gateway of a sidecar, between its source, Envoy, readiness and the admin page.

It holds no logic of the parts themselves.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from epp_client.admin.server import Readiness
from epp_client.gateway.table import GatewayName, GatewayTable

if TYPE_CHECKING:
    # They take 70 MB: imported only if used.
    from epp_client.envoy.edge import GatewayEdge
    from epp_client.gateway.world import GatewayResolution
    from epp_client.gateway_settings import GatewaySettings
    from epp_client.kubernetes.gateway import GatewayUse, KubernetesGateway
    from epp_client.settings import UpstreamMode

NOT_KNOWN = "the Gateway has not been read yet"
_NO_GATEWAY = GatewayTable(GatewayName("", ""))
"""Without listeners: for an Envoy that takes listeners from us although the files have no Gateway."""


class Envoys(Protocol):
    """Whoever configures Envoys."""

    def serve_gateway(self, table: GatewayTable | None) -> None:
        """Serve this table from now on. None: it is not known, and Envoy keeps what it has."""

    @property
    def gateway_acknowledged(self) -> bool | None:
        """Whether every Envoy has it; None: no Envoy asks for it."""


class ServedGateway:
    """Connects whoever follows the Gateway with whoever configures Envoy."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._envoys: Envoys | None = None
        self._source: KubernetesGateway | None = None
        self._resolution: GatewayResolution | None = None

    def connect(self, envoys: Envoys) -> None:
        """Give tables to `envoys` from now on."""
        self._envoys = envoys

    def told(self) -> None:
        """What Envoys have acknowledged has changed."""
        if self._source is not None:
            self._source.told()

    def _acknowledged(self) -> bool | None:
        return self._envoys.gateway_acknowledged if self._envoys is not None else None

    # --- a Gateway from an API server ---

    def use(self) -> "GatewayUse":
        """Where the source's tables go. Not ready until the first one is known."""
        from epp_client.kubernetes.gateway import GatewayUse

        return GatewayUse(self._serve, self._acknowledged, self._listed)

    def follow(self, source: "KubernetesGateway | None") -> None:
        """Note the source of the table; None without --gateway."""
        self._source = source
        if source is not None and source.source is not None:
            self._readiness.set("gateway", ok=False, reason=NOT_KNOWN)

    def _listed(self, missing: str) -> None:
        self._readiness.set("gateway", ok=not missing, reason=missing)

    # --- a Gateway from files ---

    def read(self, resolution: "GatewayResolution | None") -> None:
        """Serve the one Gateway of the manifests; None: there is none."""
        self._resolution = resolution
        self._serve(_NO_GATEWAY if resolution is None else resolution.table)

    # --- both ---

    @property
    def resolution(self) -> "GatewayResolution | None":
        """What is served; None without a Gateway of ours."""
        return self._resolution if self._source is None else self._source.resolution

    def certificates(self) -> Mapping[tuple[str, str], bytes]:
        """The PEM chains that Envoy serves, by namespace and name of the Secret."""
        resolution = self.resolution
        table = resolution.table if resolution is not None else None
        found = table.certificates if table is not None else {}
        return {name: certificate.chain for name, certificate in found.items()}

    def _serve(self, table: GatewayTable | None) -> None:
        if self._envoys is not None:
            self._envoys.serve_gateway(table)


def edge_of(settings: "GatewaySettings", mode: "UpstreamMode", sockets: int) -> "GatewayEdge":
    """What Envoy's listeners are to be like. `sockets`: the number of those of the relay workers."""
    from epp_client.envoy.edge import Edge, GatewayEdge, SidecarShape, Tracing

    edge = Edge(
        idle_timeout=settings.gateway_idle_timeout,
        request_timeout=settings.gateway_request_timeout,
        upgrades=() if settings.gateway_upgrades == ("none",) else settings.gateway_upgrades,
        tracing=Tracing.to(settings.gateway_otlp_grpc, settings.gateway_trace_share),
    )
    return GatewayEdge(
        edge,
        settings.gateway_listen,
        access_log=settings.gateway_access_log,
        sidecar=SidecarShape(mode, sockets),
    )
