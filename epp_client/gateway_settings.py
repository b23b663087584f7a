"""Settings of how Envoy serves the ports of a Gateway. Field docstrings are the help of `serve`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from epp_client.option_values import CollectorAddress, IpAddress, PerCent


class GatewaySettings(BaseModel):
    """How Envoy serves the ports of a Gateway, which it gets from the sidecar. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    gateway_listen: IpAddress = "0.0.0.0"
    """IP address on which Envoy listens on the ports of a Gateway; `::` for IPv4 and IPv6."""
    gateway_idle_timeout: Annotated[float, Field(ge=0)] = 7200.0
    """Seconds without a byte in either direction after which Envoy ends a stream through a Gateway; 0: no
    limit."""
    gateway_request_timeout: Annotated[float, Field(ge=0)] = 0.0
    """Seconds from the end of a request through a Gateway to the end of its response, unless the route says
    otherwise; 0: no limit."""
    gateway_access_log: bool = True
    """Have Envoy log each request through a Gateway, to standard output."""
    gateway_upgrades: tuple[str, ...] = ("websocket",)
    """Protocol that clients of a Gateway may upgrade to, repeatable; `none`: no upgrades. Default:
    websocket."""
    gateway_otlp_grpc: CollectorAddress | None = None
    """host:port of an OpenTelemetry collector (OTLP over gRPC) for Envoy's own spans of requests through a
    Gateway. Envoy then sends a `traceparent` to pickers and model servers."""
    gateway_trace_share: PerCent = 100.0
    """Per cent of the requests through a Gateway that Envoy samples, of those whose client has not decided
    it."""
