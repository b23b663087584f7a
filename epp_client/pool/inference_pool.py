"""InferencePool v1 as a value: names, ports, protocol, picker reference, per-pool settings.

Pure: no clock, no I/O. Rules come from the `inference.networking.k8s.io/v1` API reference.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from epp_client.pool.settings import PoolSettings

ACTIVE_PORTS_ANNOTATION = "inference.networking.k8s.io/active-ports"


class FailureMode(StrEnum):
    """What to do when the endpoint picker gives no usable answer."""

    FAIL_OPEN = "FailOpen"
    FAIL_CLOSE = "FailClose"


class AppProtocol(StrEnum):
    """Protocol from Envoy to the target ports of the pool."""

    HTTP = "http"
    H2C = "kubernetes.io/h2c"


class PoolName(NamedTuple):
    """The identity of an InferencePool."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class EndpointPickerRef:
    """`spec.endpointPickerRef`. `port` is the Service port, not its target port."""

    name: str
    port: int | None
    failure_mode: FailureMode = FailureMode.FAIL_CLOSE
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    """Namespace of the Service; empty: that of the pool. An InferencePool has no such field."""


@dataclass(frozen=True, slots=True)
class InferencePool:
    """One validated InferencePool."""

    name: PoolName
    match_labels: tuple[tuple[str, str], ...]
    """Labels that each of its Pods has."""
    target_ports: tuple[int, ...]
    app_protocol: AppProtocol = AppProtocol.HTTP
    picker: EndpointPickerRef | None = None
    settings: PoolSettings = field(default_factory=PoolSettings)
    generation: int = 0
    selector: str = ""
    """Label selector of its Pods instead of `match_labels`, of a pool that options describe. The API server
    evaluates it."""

    @property
    def failure_mode(self) -> FailureMode:
        """The picker's failure mode; FailClose for a pool without a picker."""
        return self.picker.failure_mode if self.picker else FailureMode.FAIL_CLOSE
