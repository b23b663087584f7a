"""Settings of the whole process: parsed and validated in one place, before anything binds."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

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
    """Pools from an API server. Without a kubeconfig: what the Pod, or this machine, says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kubeconfig: Path | None = None
    context: str | None = None
    namespaces: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Follow the InferencePools of these; of all when nothing is named."""
    named_pools: tuple[Annotated[str, AfterValidator(_pool_name)], ...] = ()
    """`namespace/name` of single InferencePools to follow."""
    last_known: Path | None = None
    """File for what the API server has told last, for a start without it; None: there is none."""
    gateway: Annotated[str, AfterValidator(_pool_name)] | None = None
    """`namespace/name` of the Gateway that this sidecar serves: pools' status is reported for it."""
    controller_name: Annotated[str, Field(max_length=253, pattern=_CONTROLLER)] = DEFAULT_CONTROLLER
    """Whose entries in `status.parents` are ours, beside other controllers' for the same Gateway."""
    lease_namespace: Annotated[str, Field(min_length=1)] | None = None
    """Where the replicas' Lease is; by default in the Pod's namespace, else in the Gateway's."""
    status: bool = True
    """Whether status is reported at all; without a Gateway it never is."""


class ServeSettings(BaseModel):
    """Settings of `epp-client serve`. Times in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: Path | None = None
    """Manifest file or directory; this or `kubernetes`."""
    kubernetes: KubernetesSettings | None = None
    """Follow an API server."""
    socket: Path = Path("/run/epp-client/ext-proc.sock")
    """Unix socket for Envoy's ext_proc streams; with several workers the first of their names."""
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 1
    """Relay processes; 0 relays in the control process."""
    hold: Path | None = None
    """Socket of a holder, so that `socket` outlives this process; None: it does not."""
    xds_socket: Path | None = Path("/run/epp-client/xds.sock")
    """Unix socket for Envoy's ADS stream; None serves no xDS."""
    admin: Annotated[str, AfterValidator(_address)] = "127.0.0.1:9902"
    """`host:port` of the admin page."""
    admin_hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = ()
    """Names by which the admin page may be asked for, beside loopback's and this machine's own."""
    transport: TransportName = TransportName.NATIVE
    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST
    max_exchanges: Annotated[int, Field(ge=1)] = 10_000
    """Streams open at once in one worker; beyond it requests get 503 with `retry-after`."""
    max_retained_total: Annotated[int, Field(ge=0)] = 512 * 1024 * 1024
    """Bytes of bodies kept for a second try by all exchanges of one worker."""
    drain_timeout: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """How long open streams may take to finish after SIGTERM."""
    pool_defaults: PoolSettings = PoolSettings()
    """Defaults that annotations on an InferencePool override."""
    log_format: str = "json"
    log_level: str = "info"

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
    try:
        return ServeSettings.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc']))}: {said} (got {item['input']!r})"
            if item["loc"]
            else said
            for item in error.errors()
            for said in [item["msg"].removeprefix("Value error, ")]
        ]
        raise SettingsError("; ".join(lines)) from error
