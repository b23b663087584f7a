"""`epp-client envoy-config`: prints a bootstrap for Envoy, made from manifests and options."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from pydantic import BaseModel, ConfigDict, Field, model_validator

from epp_client.cli.options import settings_as_options
from epp_client.errors import SettingsError
from epp_client.imports import plain_messages, uncollected
from epp_client.option_values import CollectorAddress, PerCent, host_port
from epp_client.pool.settings import Modes, PoolSettings, RequestMode, ResponseMode
from epp_client.settings import (
    MAX_WORKERS,
    EndpointSettings,
    UpstreamMode,
    valid,
    worker_sockets,
)

if TYPE_CHECKING:
    from epp_client.envoy.edge import Edge
    from epp_client.envoy.routes import Route
    from epp_client.pool.inference_pool import InferencePool, PoolName
    from epp_client.pool.problems import Problem

_RUN = Path("/run/epp-client")


class EnvoySettings(BaseModel):
    """Settings of Envoy, for every command that makes its bootstrap. The docstrings are the help."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    routes: tuple[str, ...] = ()
    """/PREFIX=namespace/name, repeatable. Default: `/<namespace>/<name>/` for each pool, and `/` if there
    is only one."""
    listen: str = "0.0.0.0:8080"
    """host:port of Envoy's listener."""
    tls_cert: Path | None = None
    """PEM certificate chain of the listener, at its path on Envoy's host. Needs --tls-key. Envoy reads both
    files when it starts."""
    tls_key: Path | None = None
    """PEM key of --tls-cert."""
    max_connections: Annotated[int, Field(ge=0)] = 50_000
    """Client connections that Envoy accepts at once; 0: no limit."""
    idle_timeout: Annotated[float, Field(ge=0)] = 7200.0
    """Seconds without a byte in either direction after which Envoy ends a stream; 0: no limit."""
    request_timeout: Annotated[float, Field(ge=0)] = 0.0
    """Seconds from the end of a request to the end of its response; 0: no limit."""
    upgrades: tuple[str, ...] = ("websocket",)
    """Protocol that clients may upgrade to, repeatable; `none`: no upgrades. Default: websocket."""
    otlp_grpc: CollectorAddress | None = None
    """host:port of an OpenTelemetry collector (OTLP over gRPC) for Envoy's own spans. Envoy then sends a
    `traceparent` to pickers and model servers."""
    trace_share: PerCent = 100.0
    """Per cent of the requests that Envoy samples, of those whose client has not decided it."""
    envoy_admin: str = "127.0.0.1:9901"
    """host:port of Envoy's admin listener."""
    status_listen: str | None = None
    """host:port of a second listener that has only Envoy's /ready and /stats/prometheus, for probes and
    Prometheus on other hosts."""


_WITH_GATEWAY = {
    *("gateway", "socket", "workers", "xds_socket", "output"),
    *("envoy_admin", "status_listen", "max_connections"),
}


class EnvoyConfigSettings(EnvoySettings):
    """Settings of `epp-client envoy-config`."""

    pools: Path | None = None
    """Manifest file or directory (YAML or JSON) with InferencePools."""
    endpoints: EndpointSettings = Field(default_factory=EndpointSettings)
    named_pools: tuple[str, ...] = ()
    """namespace/name of a pool, repeatable, instead of manifests: `serve` knows the rest. For a pool whose
    modes differ from --request-mode and --response-mode: namespace/name=MODE, or =MODE+MODE."""
    socket: Path = _RUN / "ext-proc.sock"
    """ext_proc socket, as given to `serve`."""
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 1
    """Relay processes, as given to `serve`."""
    xds_socket: Path = _RUN / "xds.sock"
    """ADS socket, as given to `serve`."""
    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST
    """How Envoy reaches the destination endpoint, as given to `serve`."""
    request_mode: RequestMode = RequestMode.RELAY
    """Request mode of pools without the annotation, as given to `serve`."""
    response_mode: ResponseMode = ResponseMode.RELAY
    """Response mode of pools without the annotation, as given to `serve`."""
    gateway: bool = False
    """For `serve --gateway`: listeners, routes and certificates come from the sidecar, so the bootstrap
    has none, and the options for them are those of `serve`."""
    output: Path | None = None
    """File to write the bootstrap to. Default: standard output."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.gateway:
            if self.model_fields_set - _WITH_GATEWAY:
                raise ValueError(
                    "--gateway: goes with --socket, --workers, --xds-socket, --envoy-admin, "
                    "--status-listen, --max-connections and --output alone; `serve` knows the rest"
                )
            return self
        self.endpoints.check_source(
            self.pools is not None,
            bool(self.named_pools),
            # Routes need the pool's name, not the cluster.
            self.endpoints.selects,
            names="--pools PATH, --pool NAMESPACE/NAME, --endpoint IP:PORT, --endpoints FILE or "
            "--endpoint-selector SELECTOR",
        )
        if self.named_pools and self.upstream_mode is UpstreamMode.ORIGINAL_DST:
            raise ValueError(
                "--pool: --upstream-mode original_dst needs the protocols of the pools; give --pools PATH"
            )
        return self


@settings_as_options(given=EnvoyConfigSettings)
def envoy_config(given: dict[str, Any]) -> None:
    """Print an Envoy bootstrap with routes for the given pools; a pool with errors gets no route."""
    settings = valid(EnvoyConfigSettings, given)
    with uncollected():
        with plain_messages():
            import epp_client.envoy.bootstrap  # noqa: F401
        text = _for_gateway(settings) if settings.gateway else _for_pools(settings)
    if settings.output is None:
        typer.echo(text)
        return
    try:
        settings.output.write_text(text)
    except OSError as error:
        raise SettingsError(f"--output: cannot be written: {error}") from error


def _for_gateway(settings: EnvoyConfigSettings) -> str:
    from epp_client.envoy.bootstrap import gateway_config

    return gateway_config(
        edge=edge_of(settings),
        admin=address_of(settings.envoy_admin),
        status=address_of(settings.status_listen) if settings.status_listen else None,
        ext_proc_sockets=worker_sockets(settings.socket, settings.workers),
        ads_socket=settings.xds_socket,
    )


def _for_pools(settings: EnvoyConfigSettings) -> str:
    from epp_client.envoy.bootstrap import envoy_config as render
    from epp_client.envoy.routes import default_routes, without_root

    pools = _pools(settings)
    modes = {name: pool.settings.modes for name, pool in pools.items()}
    default = Modes(settings.request_mode, settings.response_mode)
    modes |= dict(_named(text, default) for text in settings.named_pools)
    routes = [route_of(item) for item in settings.routes] or default_routes(sorted(modes))
    without_ads = settings.upstream_mode is UpstreamMode.ORIGINAL_DST
    text = render(
        sorted(modes),
        routes=routes,
        listener=address_of(settings.listen),
        edge=edge_of(settings),
        admin=address_of(settings.envoy_admin),
        status=address_of(settings.status_listen) if settings.status_listen else None,
        ext_proc_sockets=worker_sockets(settings.socket, settings.workers),
        ads_socket=None if without_ads else settings.xds_socket,
        upstream_mode=settings.upstream_mode,
        modes=modes,
        app_protocols={name: pool.app_protocol for name, pool in pools.items()},
    )
    if not settings.routes and (hint := without_root(routes)):
        # A comment, for those who take standard error along.
        typer.echo(f"# {hint}", err=True)
    return text


def _pools(settings: EnvoyConfigSettings) -> "Mapping[PoolName, InferencePool]":
    """The pools that have no error. Errors are printed."""
    from epp_client.endpoints.source import load as load_endpoints
    from epp_client.manifests.files import load
    from epp_client.manifests.world import contents_of

    if settings.named_pools:
        return {}
    defaults = PoolSettings(
        request_mode=settings.request_mode, response_mode=settings.response_mode
    )
    if settings.endpoints.selects:
        from epp_client.kubernetes.follow.given import given_pool

        pool = given_pool(settings.endpoints, defaults, None)
        return {pool.name: pool}
    if settings.pools is None:
        listed, problems = load_endpoints(settings.endpoints, defaults)
        _show_errors(problems)
        return {one.pool.name: one.pool for one in listed or ()}
    loaded = load(settings.pools)
    contents = contents_of(loaded, defaults, {})
    _show_errors((*loaded.problems, *contents.problems))
    return contents.world.pools


def _named(text: str, default: Modes) -> "tuple[PoolName, Modes]":
    """The pool that `namespace/name[=MODE[+MODE]]` names, and its modes.

    Raises:
        SettingsError: it is not of that form.
    """
    from epp_client.pool.inference_pool import PoolName

    name, has_mode, words = text.partition("=")
    namespace, _, own = name.partition("/")
    if not namespace or not own or "/" in own:
        raise SettingsError(f"--pool {text!r} is not of the form namespace/name[=MODE]")
    modes = Modes() if has_mode else default
    for word in words.split("+") if has_mode else ():
        if word in set(ResponseMode):
            modes = modes._replace(response=ResponseMode(word))
        elif word in set(RequestMode):
            modes = modes._replace(request=RequestMode(word))
        else:
            known = ", ".join(dict.fromkeys((*ResponseMode, *RequestMode)))
            raise SettingsError(f"--pool {text!r}: {word!r} is no mode; there are {known}")
    return PoolName(namespace, own), modes


def _show_errors(problems: "Iterable[Problem]") -> None:
    from epp_client.pool.problems import Severity

    for problem in problems:
        if problem.severity is Severity.ERROR:
            typer.echo(f"error: {problem}", err=True)


def edge_of(settings: EnvoySettings) -> "Edge":
    """What the listener is to be like.

    Raises:
        SettingsError: a certificate without its key.
    """
    from epp_client.envoy.edge import Edge, Tracing

    certificate, key = settings.tls_cert, settings.tls_key
    if (certificate is None) != (key is None):
        raise SettingsError("--tls-cert and --tls-key need each other: give both")
    return Edge(
        idle_timeout=settings.idle_timeout,
        request_timeout=settings.request_timeout,
        upgrades=() if settings.upgrades == ("none",) else settings.upgrades,
        tls=(certificate, key) if certificate is not None and key is not None else None,
        max_connections=settings.max_connections,
        tracing=Tracing.to(settings.otlp_grpc, settings.trace_share),
    )


def route_of(text: str) -> "Route":
    """The route that `/PREFIX=namespace/name` describes.

    Raises:
        SettingsError: it is not of that form.
    """
    from epp_client.pool.inference_pool import PoolName

    with plain_messages():
        from epp_client.envoy.routes import Route
    prefix, _, pool = text.partition("=")
    namespace, slash, name = pool.partition("/")
    if not prefix.startswith("/") or not slash:
        raise SettingsError(f"--route {text!r} is not of the form /PREFIX=namespace/name")
    return Route(prefix, PoolName(namespace, name))


def address_of(text: str) -> tuple[str, int]:
    """Split `host:port`.

    Raises:
        SettingsError: it is not of that form.
    """
    try:
        return host_port(text)
    except ValueError as error:
        raise SettingsError(f"{text!r} {error}") from error
