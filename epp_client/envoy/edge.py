"""What Envoy's listeners and routes are to be like for clients. Pure.

Without Envoy's messages: `serve` reads it, and their import takes 0.3 s of CPU and 50 MB.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from epp_client.option_values import host_port
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import Modes
from epp_client.settings import UpstreamMode

RETRY_BODY_LIMIT = 16 * 1024 * 1024
"""Bytes of a request body that Envoy keeps for a retry."""


class Tracing(NamedTuple):
    """Envoy's own tracing."""

    collector: tuple[str, int]
    """Host and port of an OpenTelemetry collector (OTLP over gRPC)."""
    share: float = 100.0
    """Per cent of the requests without a sampling decision of their client that are sampled."""

    @classmethod
    def to(cls, collector: str | None, share: float) -> "Tracing | None":
        """Tracing to a collector at `host:port`; None without a collector.

        Raises:
            ValueError: `collector` is not of that form.
        """
        return None if collector is None else cls(host_port(collector), share)


class Edge(NamedTuple):
    """Limits and features for clients. Times are in seconds; 0 is no limit."""

    idle_timeout: float = 7200.0
    """Time without a byte in either direction after which a stream ends. Longer than the longest
    prefill."""
    request_timeout: float = 0.0
    """Time from the end of a request to the end of its response."""
    upgrades: tuple[str, ...] = ("websocket",)
    """Protocols that a client may upgrade its request to."""
    tls: tuple[Path, Path] | None = None
    """Paths of the PEM certificate chain and key on Envoy's host; None for plaintext. Listeners of Gateways
    have theirs from Secrets."""
    max_connections: int = 50_000
    """Client connections at once."""
    tracing: Tracing | None = None
    """Where Envoy sends its spans; None for nowhere."""


EDGE = Edge()


class Terms(NamedTuple):
    """Settings of all routes. Times are in seconds; 0 is no limit."""

    idle_timeout: float = EDGE.idle_timeout
    request_timeout: float = EDGE.request_timeout
    """Of routes that do not have their own."""
    retry_body_limit: int = RETRY_BODY_LIMIT
    """Bytes of a request body that Envoy keeps for a retry. Larger requests are not retried."""
    retries: bool = True
    """Whether requests to pools are retried. False with `original_dst`, which has one endpoint each."""
    modes: Mapping[PoolName, Modes] = MappingProxyType({})
    """What the pickers get, by pool; by default everything."""


class SidecarShape(NamedTuple):
    """What the ext_proc filter has to know of the sidecar."""

    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST
    """How Envoy reaches a pool's destination endpoint."""
    sockets: int = 1
    """Its ext_proc sockets, one for each relay worker."""


ONE_WORKER = SidecarShape()


class GatewayEdge(NamedTuple):
    """What the listeners and routes of a Gateway have in common."""

    edge: Edge = EDGE
    address: str = "0.0.0.0"
    """IP address on which its ports listen."""
    access_log: bool = True
    retry_body_limit: int = RETRY_BODY_LIMIT
    """Bytes of a request body that Envoy keeps for a retry."""
    sidecar: SidecarShape = ONE_WORKER

    def terms(self, modes: Mapping[PoolName, Modes]) -> Terms:
        """Settings of the routes. `modes`: what the pickers get, by default everything."""
        edge, retries = self.edge, self.sidecar.upstream_mode is UpstreamMode.OVERRIDE_HOST
        return Terms(edge.idle_timeout, edge.request_timeout, self.retry_body_limit, retries, modes)
