"""Settings of the whole process, validated in one place before anything binds. Field docstrings are the
help of `serve`."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from epp_client.errors import SettingsError
from epp_client.gateway_settings import GatewaySettings
from epp_client.option_values import (
    BoundAddress,
    CheckInterval,
    CheckKind,
    CheckThreshold,
    CheckTimeout,
    EndpointKeys,
    FullName,
    HostName,
    LabelSelector,
    PickerAddress,
    TargetPorts,
    is_service,
)
from epp_client.pool.inference_pool import AppProtocol, FailureMode
from epp_client.pool.settings import PoolSettings

MAX_WORKERS = 64
_Model = TypeVar("_Model", bound=BaseModel)


class TransportName(StrEnum):
    """Which gRPC implementation carries the hot path."""

    NATIVE = "native"
    """Our own HTTP/2. It takes a fraction of grpcio's CPU time."""
    GRPCIO = "grpcio"
    """The official gRPC library."""


class UpstreamMode(StrEnum):
    """How Envoy connects to the destination endpoint."""

    OVERRIDE_HOST = "override_host"
    """Clusters and endpoints come over xDS. Ordered picks, retries and the served endpoint work."""
    ORIGINAL_DST = "original_dst"
    """Envoy dials the address in the metadata, for Envoys without our xDS. One address, no retries."""


DEFAULT_CONTROLLER = "epp-client.dev/gateway"
_CONTROLLER = (
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
    r"/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$"
)
"""The pattern of `controllerName` in the Gateway API's CRDs."""
ControllerName = Annotated[str, Field(max_length=253, pattern=_CONTROLLER)]


class KubernetesSettings(BaseModel):
    """Where and how to follow the Kubernetes API, and whether to report status."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kubeconfig: Path | None = None
    """kubeconfig file. Default: the Pod's ServiceAccount, else $KUBECONFIG, else ~/.kube/config."""
    context: str | None = None
    """Context of the kubeconfig."""
    namespaces: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Namespace whose InferencePools are followed, repeatable. Default, unless --pool is given: all."""
    named_pools: tuple[FullName, ...] = ()
    """namespace/name of an InferencePool to follow in addition to those of --namespace, repeatable."""
    last_known: Path | None = None
    """File that keeps the last known objects. If the API server is down at the next start, the sidecar
    serves from it."""
    gateway: FullName | None = None
    """namespace/name of the Gateway that this sidecar serves. If its GatewayClass has --controller-name,
    Envoy gets its listeners and HTTPRoutes from the sidecar. Otherwise another implementation serves them.
    In both cases the status of the InferencePools that its routes use is reported."""
    serve_gateway: bool = True
    """Serve the Gateway if its class is ours. Without it no Gateway and no GatewayClass is read."""
    gateway_addresses: tuple[HostName, ...] = ()
    """Address or host name at which clients reach the Gateway, for its `status.addresses`, repeatable.
    Default: $POD_IP if it is set; else `status.addresses` is left as it is."""
    controller_name: ControllerName = DEFAULT_CONTROLLER
    """Controller name: of the GatewayClass whose Gateway this sidecar serves itself, and in the entries of
    `status.parents` that it writes."""
    lease_namespace: Annotated[str, Field(min_length=1)] | None = None
    """Namespace of the Lease that elects the replica which reports status. Default: the Pod's, else the
    Gateway's."""
    status: bool = True
    """Report the status of InferencePools, and of a Gateway and HTTPRoutes that this sidecar serves. Needs
    --gateway."""
    gateway_class_status: bool = True
    """Report the status of the GatewayClass too. Turn it off if a controller does."""

    @property
    def may_serve_gateway(self) -> bool:
        """Whether a Gateway is read, and served if its class is ours."""
        return self.gateway is not None and self.serve_gateway

    def check_alone(self) -> None:
        """Check that no option is about InferencePools.

        Raises:
            ValueError: names the option.
        """
        for option, given in (
            ("--namespace", self.namespaces),
            ("--pool", self.named_pools),
            ("--gateway", self.gateway),
            ("--gateway-address", self.gateway_addresses),
        ):
            if given:
                raise ValueError(
                    f"{option}: is about InferencePools, and with --endpoint-selector none is read;"
                    " --pool-name has the namespace of the Pods"
                )

    def check_one(self, option: str) -> None:
        """Check that one InferencePool is followed, and that no status is reported.

        Raises:
            ValueError: says what `option` needs.
        """
        if self.namespaces or len(self.named_pools) != 1:
            raise ValueError(
                f"{option}: a picker knows one pool; give one --pool namespace/name, and no --namespace"
            )
        if self.gateway:
            raise ValueError(f"--gateway: reports the Service of the picker; it excludes {option}")


class EndpointSettings(BaseModel):
    """One pool that is given by options, without an InferencePool: its endpoints, or the selector of its
    Pods."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    endpoint: EndpointKeys = ()
    """ip:port of a model server, repeatable. The endpoints make one pool without Kubernetes objects."""
    endpoints: Path | None = None
    """File with the endpoints instead of --endpoint, followed: llm-d's `endpoints.yaml` (YAML or JSON),
    or several pools under `pools`."""
    endpoint_selector: LabelSelector | None = None
    """Label selector of the Pods of one pool without an InferencePool, such as `app=vllm` or
    `tier in (a, b),!canary`. Needs --kubernetes."""
    endpoint_target_ports: TargetPorts = ()
    """Ports of each of those Pods, 1 to 8, separated by commas. Every podIP:port is an endpoint."""
    picker: PickerAddress | None = None
    """host:port of the endpoint picker of that pool, an address or a name. A name is looked up every 10 s.
    With --endpoint-selector also namespace/name:port of a Service. With --kubernetes and one --pool: in the
    place of the InferencePool's `endpointPickerRef`. Default: no picker; the sidecar chooses the endpoints.
    """
    pool_name: FullName = "default/default"
    """namespace/name of that pool, as Envoy's routes and the metrics have it. With --endpoint-selector the
    Pods are in that namespace; its default is then the sidecar's own, and `default` outside a cluster."""
    failure_mode: FailureMode = FailureMode.FAIL_CLOSE
    """What happens when that picker fails: `FailOpen` (the sidecar chooses an endpoint) or `FailClose`
    (the request is refused)."""
    app_protocol: AppProtocol = AppProtocol.HTTP
    """Protocol from Envoy to those endpoints: `http` (HTTP/1.1) or `kubernetes.io/h2c` (HTTP/2 in
    cleartext)."""
    health_check: CheckKind = "tcp"
    """How the sidecar finds out whether the endpoints of --endpoint and --endpoints are ready: `tcp` (it
    accepts a connection), `http:/PATH` (a GET is answered with a status from 200 to 299) or `off` (all
    are)."""
    health_check_interval: CheckInterval = 5.0
    """Seconds between two health checks of an endpoint."""
    health_check_timeout: CheckTimeout = 2.0
    """Seconds for one health check."""
    healthy_threshold: CheckThreshold = 2
    """Successful health checks in a row after which an unhealthy endpoint is ready again. A new endpoint is
    ready after one."""
    unhealthy_threshold: CheckThreshold = 3
    """Failed health checks in a row after which an endpoint is not ready any more."""

    @property
    def listed(self) -> bool:
        """Whether they list the endpoints of a pool."""
        return bool(self.endpoint) or self.endpoints is not None

    @property
    def selects(self) -> bool:
        """Whether they select the Pods of a pool."""
        return self.endpoint_selector is not None

    @property
    def picker_alone(self) -> bool:
        """Whether they have the picker of an InferencePool, and no pool."""
        return self.model_fields_set == {"picker"}

    def check_several(self, file: Path) -> None:
        """Check that the file may have several pools.

        Raises:
            SettingsError: an option describes one pool.
        """
        one = {"picker", "pool_name", "failure_mode", "app_protocol"} & self.model_fields_set
        if one:
            option = sorted(one)[0].replace("_", "-")
            raise SettingsError(f"--{option}: {file} has `pools`; write it in each pool there")

    def check_source(self, *others: bool, names: str) -> None:
        """Check that exactly one source of pools is given. `others` are whether another source is.

        Raises:
            ValueError: the text says what to give.
        """
        first = sorted(self.model_fields_set)[:1]
        if first and not (self.listed or self.selects):
            needed = "--endpoint IP:PORT, --endpoints FILE or --endpoint-selector SELECTOR"
            if first == ["endpoint_target_ports"]:
                needed = "--endpoint-selector SELECTOR"
            raise ValueError(f"--{_spelled(first[0])}: needs {needed}")
        if sum((bool(self.endpoint), self.endpoints is not None, self.selects)) > 1:
            raise ValueError(
                "give --endpoint, --endpoints FILE or --endpoint-selector SELECTOR, not several"
            )
        if self.picker is None and "failure_mode" in self.model_fields_set:
            raise ValueError("--failure-mode: needs --picker HOST:PORT")
        if self.selects:
            self._check_selection()
        else:
            self._check_list()
        if sum((self.listed, *others)) != 1:
            raise ValueError(f"give exactly one source of pools: {names}")

    def _check_selection(self) -> None:
        if not self.endpoint_target_ports:
            raise ValueError("--endpoint-selector: needs --endpoint-target-ports, such as 8000")
        for name in sorted(self.model_fields_set):
            if name.startswith("health") or name == "unhealthy_threshold":
                raise ValueError(
                    f"--{_spelled(name)}: is for --endpoint and --endpoints; with --endpoint-selector"
                    " the readiness of the Pods counts"
                )

    def _check_list(self) -> None:
        if self.endpoint_target_ports:
            raise ValueError("--endpoint-target-ports: needs --endpoint-selector SELECTOR")
        self.check_host()

    def check_host(self) -> None:
        """Check that the picker is no Service.

        Raises:
            ValueError: it is.
        """
        if self.picker is not None and is_service(self.picker):
            raise ValueError(
                f"--picker {self.picker}: a Service needs --endpoint-selector; give host:port"
            )


def _spelled(name: str) -> str:
    return name.replace("_", "-")


class SourceSettings(BaseModel):
    """Where the pools come from."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    pools: Path | None = None
    """Manifest file or directory (YAML or JSON) with InferencePools, Pods, Services and EndpointSlices,
    e.g. from `kubectl get inferencepools,pods,services,endpointslices -o yaml`."""
    kubernetes: KubernetesSettings | None = None
    """Follow the Kubernetes API instead of --pools, with the Pod's ServiceAccount or a kubeconfig."""
    endpoints: EndpointSettings = Field(default_factory=EndpointSettings)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.endpoints.selects and self.kubernetes is None:
            raise ValueError("--endpoint-selector: needs --kubernetes")
        if self.kubernetes is not None and self.pools is None and self.endpoints.picker_alone:
            self.endpoints.check_host()
            self.kubernetes.check_one("--picker")
            return self
        self.endpoints.check_source(
            self.pools is not None,
            self.kubernetes is not None,
            names="--pools PATH, --kubernetes, --endpoint IP:PORT or --endpoints FILE",
        )
        if self.endpoints.selects and self.kubernetes is not None:
            self.kubernetes.check_alone()
        return self


class ServeSettings(SourceSettings):
    """Settings of `epp-client serve`. Times are in seconds, sizes in bytes."""

    socket: Path = Path("/run/epp-client/ext-proc.sock")
    """Unix socket for Envoy's ext_proc streams. With several workers, their number is added to the name."""
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 1
    """Relay processes, one socket each (ext-proc-0.sock, ext-proc-1.sock and so on if several). 0: the
    control process relays. SIGHUP replaces them without cutting a stream."""
    hold: Path | None = None
    """Unix socket of an `epp-client hold`, which keeps the ext_proc sockets open while the sidecar
    restarts: requests queue in them instead of failing."""
    xds_socket: Path | None = Path("/run/epp-client/xds.sock")
    """Unix socket for Envoy's ADS stream."""
    admin: BoundAddress = "127.0.0.1:9902"
    """host:port of the admin page."""
    admin_hosts: tuple[HostName, ...] = ()
    """Additional name that the `Host` header of a request to the admin page may have, repeatable. Always
    allowed: localhost, the address that the request came to, the host of --admin, this machine's name."""
    gateway_edge: GatewaySettings = Field(default_factory=GatewaySettings)
    transport: TransportName = TransportName.NATIVE
    """gRPC implementation of the relay: our own, or the grpcio library."""
    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST
    """How Envoy reaches the destination endpoint: clusters over xDS, or the address in the request's
    metadata."""
    max_exchanges: Annotated[int, Field(ge=1)] = 10_000
    """Exchanges open at once in one worker. Requests above the limit get a 503 with `retry-after`."""
    max_retained_total: Annotated[int, Field(ge=0)] = 512 * 1024 * 1024
    """Bytes of request bodies that one worker keeps for replays, over all its exchanges."""
    decision_samples: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Requests without a failure that each process records a second, for the page, `epp-client tap` and the
    decision log. Failures are always recorded."""
    log_decisions: bool = False
    """Write a log line for every recorded decision. At level debug they are written without it too."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    """URL of an OpenTelemetry collector (OTLP over HTTP), for example http://otel-collector:4318. It gets
    spans of the requests whose `traceparent` is sampled. Needs `pip install 'epp-client[otel]'`."""
    drain_timeout: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """Seconds that open streams have to finish after SIGTERM."""
    pool_defaults: PoolSettings = Field(default_factory=PoolSettings)
    """Defaults that annotations on an InferencePool override."""
    log_format: str = "auto"
    """Log format: `json`, `console` (for people), or `auto`: console if stderr is a terminal, else json."""
    log_level: str = "info"
    """Lowest level that is logged: debug, info, warning or error. SIGUSR1 switches to debug and back."""

    @model_validator(mode="after")
    def _across_fields(self) -> Self:
        if self.xds_socket in self.sockets:
            raise ValueError(
                f"xds_socket: '{self.xds_socket}' is an ext_proc socket already; give another path"
            )
        return self

    @model_validator(mode="after")
    def _can_be_held(self) -> Self:
        if self.hold is not None and not (self.workers and self.transport is TransportName.NATIVE):
            raise ValueError(
                "hold: needs --transport native and relay workers (--workers 1 or more)"
            )
        return self

    @model_validator(mode="after")
    def _can_trace(self) -> Self:
        if self.otlp_endpoint is not None and not _has_otel():
            raise ValueError("otlp_endpoint: needs the extra: pip install 'epp-client[otel]'")
        return self

    @property
    def sockets(self) -> list[Path]:
        """One socket per relay."""
        return worker_sockets(self.socket, self.workers)


def _has_otel() -> bool:
    """Whether the extra `otel` is installed."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def worker_sockets(socket: Path, workers: int) -> list[Path]:
    """The ext_proc sockets of `workers` relay workers: `ext-proc.sock` for one, else `ext-proc-0.sock` and
    so on."""
    if workers <= 1:
        return [socket]
    return [socket.with_stem(f"{socket.stem}-{index}") for index in range(workers)]


def serve_settings(values: dict[str, Any]) -> ServeSettings:
    """Validate the settings of `serve`.

    Raises:
        SettingsError: names every bad key, its value and the rule that it breaks.
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
