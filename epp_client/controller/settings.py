"""Settings of `epp-client controller`. Field docstrings are its help."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from epp_client.controller.parameters import MAX_REPLICAS
from epp_client.option_values import BoundAddress, HostName
from epp_client.settings import DEFAULT_CONTROLLER, ControllerName
from epp_client.version import VERSION


class ControllerSettings(BaseModel):
    """Settings of `epp-client controller`."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kubeconfig: Path | None = None
    """kubeconfig file. Default: the Pod's ServiceAccount, else $KUBECONFIG, else ~/.kube/config."""
    context: str | None = None
    """Context of the kubeconfig."""
    controller_name: ControllerName = DEFAULT_CONTROLLER
    """Controller name of the GatewayClasses whose Gateways this controller runs."""
    image: Annotated[str, Field(min_length=1)] = f"epp-client:{VERSION}"
    """Image of the sidecar in the data planes. It should have the controller's version."""
    envoy_image: Annotated[str, Field(min_length=1)] | None = None
    """Image of Envoy in the data planes. Default: that of config/kubernetes in this version."""
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 2
    """Number of Pods of a data plane whose Gateway has no parameter `replicas`."""
    lease_namespace: Annotated[str, Field(min_length=1)] | None = None
    """Namespace of the Lease that elects the replica which writes. Default: the Pod's, else
    `epp-client-system`."""
    admin: BoundAddress = "127.0.0.1:9902"
    """host:port of /livez, /readyz and /metrics."""
    admin_hosts: tuple[HostName, ...] = ()
    """Additional name that the `Host` header of a request to them may have, repeatable."""
    log_format: str = "auto"
    """Log format: `json`, `console` (for people), or `auto`: console if stderr is a terminal, else json."""
    log_level: str = "info"
    """Lowest level that is logged: debug, info, warning or error."""
