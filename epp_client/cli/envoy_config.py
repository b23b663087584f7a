"""`epp-client envoy-config`: a bootstrap for Envoy, from manifests and options."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epp_client.errors import SettingsError
from epp_client.pool.settings import PoolSettings, ResponseMode
from epp_client.settings import MAX_WORKERS, UpstreamMode, host_port, worker_sockets

if TYPE_CHECKING:
    from epp_client.envoy.routes import Route

_RUN = Path("/run/epp-client")


def envoy_config(
    pools: Annotated[
        Path,
        typer.Option(
            exists=True,
            envvar="EPP_CLIENT_POOLS",
            help="Manifest file or directory (YAML or JSON) with InferencePools.",
        ),
    ],
    route: Annotated[
        list[str] | None,
        typer.Option(
            help="PREFIX=namespace/name, repeatable. Default: `/` for one pool, "
            "`/<namespace>/<name>/` for several."
        ),
    ] = None,
    listen: Annotated[str, typer.Option(help="host:port of Envoy's listener.")] = "0.0.0.0:8080",
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            help="PEM certificate chain of the listener, where Envoy finds it; goes with --tls-key. "
            "Envoy reads both when it starts."
        ),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its PEM key.")] = None,
    max_connections: Annotated[
        int, typer.Option(min=0, help="Of clients at once; 0 is no limit.")
    ] = 50_000,
    idle_timeout: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds without a byte in either direction that end a stream; 0: never."
        ),
    ] = 7200.0,
    request_timeout: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds from the end of a request to the end of its response; 0: no limit."
        ),
    ] = 0.0,
    upgrade: Annotated[
        list[str] | None,
        typer.Option(
            help="Protocol that clients may upgrade to, repeatable; `none` for none at all. "
            "Default: websocket."
        ),
    ] = None,
    envoy_admin: Annotated[
        str, typer.Option(help="host:port of Envoy's admin.")
    ] = "127.0.0.1:9901",
    status_listen: Annotated[
        str | None,
        typer.Option(
            help="host:port of a second listener with Envoy's /ready and /stats/prometheus alone, "
            "for probes and Prometheus from other hosts."
        ),
    ] = None,
    socket: Annotated[Path, typer.Option(help="ext_proc socket, as given to `serve`.")] = (
        _RUN / "ext-proc.sock"
    ),
    workers: Annotated[
        int, typer.Option(min=0, max=MAX_WORKERS, help="Relay processes, as given to `serve`.")
    ] = 1,
    xds_socket: Annotated[Path, typer.Option(help="ADS socket.")] = _RUN / "xds.sock",
    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST,
    response_mode: Annotated[
        ResponseMode, typer.Option(help="Of pools without the annotation, as given to `serve`.")
    ] = ResponseMode.RELAY,
) -> None:
    """Print an Envoy bootstrap with routes for the given pools; a pool with errors gets none."""
    from epp_client.envoy.bootstrap import envoy_config as render
    from epp_client.envoy.inference_listener import Edge
    from epp_client.manifests.files import load
    from epp_client.manifests.world import build_world
    from epp_client.pool.problems import Severity

    loaded = load(pools)
    world, faults = build_world(loaded, PoolSettings(response_mode=response_mode), {})
    for problem in (*loaded.problems, *faults):
        if problem.severity is Severity.ERROR:
            typer.echo(f"error: {problem}", err=True)
    edge = Edge(
        idle_timeout=idle_timeout,
        request_timeout=request_timeout,
        upgrades=_upgrades(upgrade),
        tls=_tls(tls_cert, tls_key),
        max_connections=max_connections,
    )
    text = render(
        sorted(world.pools),
        routes=[_route(item) for item in route] if route else None,
        listener=_host_port(listen),
        edge=edge,
        admin=_host_port(envoy_admin),
        status=_host_port(status_listen) if status_listen else None,
        ext_proc_sockets=worker_sockets(socket, workers),
        ads_socket=None if upstream_mode is UpstreamMode.ORIGINAL_DST else xds_socket,
        upstream_mode=upstream_mode,
        response_modes={name: pool.settings.response_mode for name, pool in world.pools.items()},
        app_protocols={name: pool.app_protocol for name, pool in world.pools.items()},
    )
    typer.echo(text)


def _upgrades(names: list[str] | None) -> tuple[str, ...]:
    if names is None:
        return ("websocket",)
    return () if names == ["none"] else tuple(names)


def _tls(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise SettingsError("--tls-cert and --tls-key go together")
    return certificate, key


def _route(text: str) -> "Route":
    from epp_client.envoy.routes import Route
    from epp_client.pool.inference_pool import PoolName

    prefix, _, pool = text.partition("=")
    namespace, slash, name = pool.partition("/")
    if not prefix.startswith("/") or not slash:
        raise SettingsError(f"--route {text!r} is not of the form /PREFIX=namespace/name")
    return Route(prefix, PoolName(namespace, name))


def _host_port(text: str) -> tuple[str, int]:
    try:
        return host_port(text)
    except ValueError as error:
        raise SettingsError(f"{text!r} {error}") from error
