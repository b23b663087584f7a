"""Settings of the whole process: parsed and validated in one place, before anything binds."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from epp_client.errors import SettingsError
from epp_client.pool.settings import PoolSettings

MAX_WORKERS = 64
_Model = TypeVar("_Model", bound=BaseModel)


class TransportName(StrEnum):
    """Which gRPC implementation carries the hot path."""

    NATIVE = "native"
    """Our own HTTP/2: a fraction of the CPU."""
    GRPCIO = "grpcio"
    """gRPC's own library."""


class UpstreamMode(StrEnum):
    """How Envoy gets from the destination endpoint to a connection."""

    OVERRIDE_HOST = "override_host"
    """Clusters and endpoints over xDS; ordered lists, retries, the served endpoint."""
    ORIGINAL_DST = "original_dst"
    """Envoy dials what the metadata says; for Envoys without our xDS. One address, no retries."""


def _pool_name(text: str) -> str:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise ValueError("is not of the form namespace/name")
    return text


def host_port(text: str) -> tuple[str, int]:
    """`host:port` as two; an IPv6 host is in brackets.

    Raises:
        ValueError: it is not of that form.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("is not of the form host:port")
    return host.strip("[]"), int(port)


def _address(text: str) -> str:
    host_port(text)
    return text


def _host_name(text: str) -> str:
    if not text or any(sign in text for sign in "/@ *") or text.count(":") == 1:
        raise ValueError("is not a host name or address, without a port")
    return text


DEFAULT_CONTROLLER = "epp-client.dev/gateway"
_CONTROLLER = (
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
    r"/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$"
)
"""The API's own pattern of a `controllerName`."""


class KubernetesSettings(BaseModel):
    """Pools from an API server. Without a kubeconfig: what the Pod, or this machine, says.

    The docstrings are the help of `serve`, as those of ServeSettings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kubeconfig: Path | None = None
    """kubeconfig file. Default: the Pod's ServiceAccount, $KUBECONFIG, ~/.kube/config."""
    context: str | None = None
    """Context of the kubeconfig."""
    namespaces: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Follow the InferencePools of this namespace, repeatable. Default: all."""
    named_pools: tuple[Annotated[str, AfterValidator(_pool_name)], ...] = ()
    """namespace/name of one InferencePool to follow, repeatable."""
    last_known: Path | None = None
    """File for what the API server has told last: a start without the server goes on from it."""
    gateway: Annotated[str, AfterValidator(_pool_name)] | None = None
    """namespace/name of the Gateway that this sidecar serves: the status of its InferencePools is
    reported."""
    controller_name: Annotated[str, Field(max_length=253, pattern=_CONTROLLER)] = DEFAULT_CONTROLLER
    """Name to report as: whose entries in `status.parents` are ours."""
    lease_namespace: Annotated[str, Field(min_length=1)] | None = None
    """Of the Lease by which one replica reports. Default: the Pod's, else the Gateway's."""
    status: bool = True
    """Report status, given a --gateway."""


class ServeSettings(BaseModel):
    """Settings of `epp-client serve`. Times in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    pools: Path | None = None
    """Manifest file or directory (YAML or JSON) with InferencePools, Pods, Services and EndpointSlices,
    e.g. from `kubectl get inferencepools,pods,services,endpointslices -o yaml`."""
    kubernetes: KubernetesSettings | None = None
    """Follow the Kubernetes API instead of --pools: as the Pod's ServiceAccount, else by kubeconfig."""
    socket: Path = Path("/run/epp-client/ext-proc.sock")
    """Unix socket for Envoy's ext_proc streams; with several workers the first of their names."""
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 1
    """Relay processes, one socket each (ext-proc-0.sock and so on when there are several); 0 relays in the
    control process. SIGHUP replaces them without cutting a stream."""
    hold: Path | None = None
    """Socket of an `epp-client hold`: the ext_proc sockets outlive this process, and what comes while it
    restarts waits for the next one."""
    xds_socket: Path | None = Path("/run/epp-client/xds.sock")
    """Unix socket for Envoy's ADS stream."""
    admin: Annotated[str, AfterValidator(_address)] = "127.0.0.1:9902"
    """host:port of the admin page."""
    admin_hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = ()
    """Further name by which the admin page may be asked for, repeatable. Always allowed: localhost, the
    address that a request came to, the host of --admin, this machine's name."""
    transport: TransportName = TransportName.NATIVE
    """Our own gRPC wire, or grpcio."""
    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST
    """How Envoy reaches the destination endpoint."""
    max_exchanges: Annotated[int, Field(ge=1)] = 10_000
    """Streams open at once in one worker; beyond it requests get 503 with `retry-after`."""
    max_retained_total: Annotated[int, Field(ge=0)] = 512 * 1024 * 1024
    """Bytes of bodies kept for a second try by all exchanges of one worker."""
    drain_timeout: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """Seconds that open streams may take to finish after SIGTERM."""
    pool_defaults: PoolSettings = PoolSettings()
    """Defaults that annotations on an InferencePool override."""
    log_format: str = "json"
    """json or console."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @model_validator(mode="after")
    def _across_fields(self) -> Self:
        if (self.pools is None) == (self.kubernetes is None):
            raise ValueError("exactly one source of pools is needed: --pools PATH or --kubernetes")
        if self.xds_socket in self.sockets:
            raise ValueError(f"xds_socket: '{self.xds_socket}' is --socket's, or a worker's")
        return self

    @model_validator(mode="after")
    def _can_be_held(self) -> Self:
        if self.hold is not None and not (self.workers and self.transport is TransportName.NATIVE):
            raise ValueError(
                "hold: needs --transport native and relay workers (--workers 1 or more)"
            )
        return self

    @property
    def sockets(self) -> list[Path]:
        """One socket per relay."""
        return worker_sockets(self.socket, self.workers)


def worker_sockets(socket: Path, workers: int) -> list[Path]:
    """The sockets of so many relay workers: `ext-proc.sock` alone, else `ext-proc-0.sock` and so on."""
    if workers <= 1:
        return [socket]
    return [socket.with_stem(f"{socket.stem}-{index}") for index in range(workers)]


def serve_settings(values: dict[str, Any]) -> ServeSettings:
    """Validate settings.

    Raises:
        SettingsError: names every bad key, its value and the rule it breaks.
    """
    return valid(ServeSettings, values)


def valid(model: type[_Model], values: dict[str, Any]) -> _Model:
    """Validate the settings of `model`.

    Raises:
        SettingsError: see `serve_settings`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc']))}: {said} (got {item['input']!r})"
            if item["loc"]
            else said
            for item in error.errors()
            for said in [item["msg"].removeprefix("Value error, ")]
        ]
        raise SettingsError("; ".join(lines)) from error
