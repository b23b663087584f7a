"""The command line: parses, calls one function of the package, prints. No logic of its own."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from epp_client import __version__
from epp_client.errors import EppClientError, SettingsError
from epp_client.pool.settings import PickerTls, PickerTlsMode, PoolSettings, ResponseMode
from epp_client.settings import TransportName, UpstreamMode, serve_settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="The InferencePool data plane for Envoy: asks the Endpoint Picker about each request, "
    "checks the answer, survives the picker's failures.",
)

PoolsPath = Annotated[
    Path,
    typer.Option(
        "--pools",
        exists=True,
        help="Manifest file or directory (YAML or JSON) with InferencePools, Pods, Services and "
        "EndpointSlices, e.g. from `kubectl get inferencepools,pods,services,endpointslices -o yaml`.",
        envvar="EPP_CLIENT_POOLS",
    ),
]
Tls = Annotated[
    PickerTlsMode,
    typer.Option(
        "--picker-tls",
        help="How to speak to pickers. `unverified` suits the self-signed certificate that GAIE's "
        "picker makes for itself; per pool: annotation `epp-client.dev/tls`.",
        envvar="EPP_CLIENT_PICKER_TLS",
    ),
]


@app.command()
def serve(
    pools: PoolsPath,
    socket: Annotated[
        Path, typer.Option(help="Unix socket for ext_proc.", envvar="EPP_CLIENT_SOCKET")
    ] = Path("/run/epp-client/ext-proc.sock"),
    xds_socket: Annotated[
        Path | None, typer.Option(help="Unix socket for ADS.", envvar="EPP_CLIENT_XDS_SOCKET")
    ] = Path("/run/epp-client/xds.sock"),
    xds: Annotated[bool, typer.Option(help="Serve clusters and endpoints to Envoy.")] = True,
    admin: Annotated[
        str, typer.Option(help="host:port of the admin page.", envvar="EPP_CLIENT_ADMIN")
    ] = "127.0.0.1:9902",
    transport: Annotated[
        TransportName,
        typer.Option(help="Our own gRPC wire, or grpcio.", envvar="EPP_CLIENT_TRANSPORT"),
    ] = TransportName.NATIVE,
    upstream_mode: Annotated[
        UpstreamMode, typer.Option(help="How Envoy reaches the destination endpoint.")
    ] = UpstreamMode.OVERRIDE_HOST,
    picker_tls: Tls = PickerTlsMode.UNVERIFIED,
    picker_ca: Annotated[Path | None, typer.Option(help="PEM bundle to verify pickers.")] = None,
    picker_cert: Annotated[Path | None, typer.Option(help="Client certificate (mTLS).")] = None,
    picker_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    connect_timeout: Annotated[float, typer.Option(help="Seconds to reach a picker.")] = 1.0,
    pick_timeout: Annotated[
        float, typer.Option(help="Seconds from the end of the request to the pick.")
    ] = 10.0,
    response_timeout: Annotated[
        float, typer.Option(help="Seconds for an answer in the response phase.")
    ] = 1.0,
    response_mode: Annotated[
        ResponseMode, typer.Option(help="What pickers get to do with responses.")
    ] = ResponseMode.RELAY,
    max_exchanges: Annotated[int, typer.Option(help="Requests held at once.")] = 10_000,
    max_retained_body: Annotated[
        int, typer.Option(help="Bytes of one request body kept for a replay.")
    ] = 16 * 1024 * 1024,
    max_retained_total: Annotated[
        int, typer.Option(help="Bytes of all bodies kept for a replay.")
    ] = 512 * 1024 * 1024,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds for open streams after SIGTERM.")
    ] = 30.0,
    log_format: Annotated[str, typer.Option(help="json or console.")] = "json",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the sidecar until SIGTERM, then drain."""
    from epp_client.app import serve as serve_app
    from epp_client.logs import configure

    configure(log_format, log_level)
    settings = serve_settings(
        {
            "pools": pools,
            "socket": socket,
            "xds_socket": xds_socket if xds else None,
            "admin": admin,
            "transport": transport,
            "upstream_mode": upstream_mode,
            "max_exchanges": max_exchanges,
            "max_retained_total": max_retained_total,
            "drain_timeout": drain_timeout,
            "pool_defaults": {
                "tls": {
                    "mode": picker_tls,
                    "ca_file": picker_ca,
                    "cert_file": picker_cert,
                    "key_file": picker_key,
                },
                "connect_timeout": connect_timeout,
                "pick_timeout": pick_timeout,
                "response_timeout": response_timeout,
                "response_mode": response_mode,
                "max_retained_body": max_retained_body,
            },
        }
    )
    uvloop.run(serve_app(settings))


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="Manifest files or folders.")],
    strict: Annotated[bool, typer.Option(help="Exit 1 on warnings as well.")] = False,
) -> None:
    """Lint manifests: one located line per problem; exit 1 on errors."""
    from epp_client.pool.manifests import lint
    from epp_client.pool.problems import Severity

    problems = [problem for path in paths for problem in lint(path, PoolSettings())]
    for problem in problems:
        typer.echo(f"{problem.severity}: {problem}")
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    typer.echo(f"{errors} errors, {len(problems) - errors} warnings")
    if errors or (strict and problems):
        raise typer.Exit(1)


@app.command()
def pick(
    pool: Annotated[str, typer.Argument(help="namespace/name of the InferencePool.")],
    pools: PoolsPath,
    body: Annotated[
        str, typer.Option(help="Request body, or @FILE.")
    ] = '{"model":"m","prompt":"hi"}',
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="`name: value`, repeatable.")
    ] = None,
    picker_tls: Tls = PickerTlsMode.UNVERIFIED,
    picker_ca: Annotated[Path | None, typer.Option(help="PEM bundle to verify with.")] = None,
) -> None:
    """Ask a pool's picker once and print the endpoints, the mutations and the latency."""
    from epp_client.picker.ask import ask_picker
    from epp_client.pool.manifests import ManifestSource
    from epp_client.pool.store import PoolStore
    from epp_client.wire.native import NativeTransport

    store = PoolStore()
    defaults = PoolSettings(tls=PickerTls(mode=picker_tls, ca_file=picker_ca))
    ManifestSource(pools, store, defaults, lambda: 0.0).reload()
    snapshot = store.snapshots.get(pool)
    if snapshot is None:
        known = ", ".join(sorted(store.snapshots)) or "none"
        raise SettingsError(f"no InferencePool {pool} in {pools}; there are: {known}")
    content = Path(body[1:]).read_bytes() if body.startswith("@") else body.encode()
    headers = [(":method", "POST"), (":path", "/v1/completions")]
    for line in header or []:
        name, colon, value = line.partition(":")
        if not colon:
            raise SettingsError(f"--header {line!r} is not of the form 'name: value'")
        headers.append((name.strip(), value.strip()))
    report = asyncio.run(ask_picker(snapshot, NativeTransport(), headers, content))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("pool", pool)
    table.add_row("picker", ", ".join(snapshot.picker.addresses) if snapshot.picker else "-")
    table.add_row("connect", f"{report.connect_seconds * 1000:.1f} ms")
    table.add_row("pick", f"{report.pick_seconds * 1000:.1f} ms")
    table.add_row("endpoints", ", ".join(report.endpoints) or "-")
    if report.said and report.said != ",".join(report.endpoints):
        table.add_row("as written", report.said)
    for name, value in report.set_headers:
        table.add_row("set header", f"{name}: {value}")
    for name in report.remove_headers:
        table.add_row("remove header", name)
    if report.body and report.body != content:
        table.add_row("body", report.body[:500].decode(errors="replace"))
    if report.refused is not None:
        table.add_row("refused", str(report.refused))
    if report.problem is not None:
        table.add_row("problem", f"{report.problem} {report.detail}")
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if report.problem is not None or report.refused is not None:
        raise typer.Exit(1)


@app.command("envoy-config")
def envoy_config(
    pools: PoolsPath,
    route: Annotated[
        list[str] | None,
        typer.Option(
            help="PREFIX=namespace/name, repeatable. Default: `/` for one pool, "
            "`/<namespace>/<name>/` for several."
        ),
    ] = None,
    listen: Annotated[str, typer.Option(help="host:port of Envoy's listener.")] = "0.0.0.0:8080",
    envoy_admin: Annotated[
        str, typer.Option(help="host:port of Envoy's admin.")
    ] = "127.0.0.1:9901",
    socket: Annotated[list[Path] | None, typer.Option(help="ext_proc socket(s).")] = None,
    xds_socket: Annotated[Path, typer.Option(help="ADS socket.")] = Path(
        "/run/epp-client/xds.sock"
    ),
    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST,
    response_mode: ResponseMode = ResponseMode.RELAY,
) -> None:
    """Print an Envoy bootstrap with routes for the given pools."""
    from epp_client.pool.manifests import build_world, load
    from epp_client.xds.bootstrap import envoy_config as render

    world, _ = build_world(load(pools), PoolSettings(), {})
    names = sorted(world.pools)
    text = render(
        names,
        routes=[_route(item) for item in route] if route else None,
        listener=_host_port(listen),
        admin=_host_port(envoy_admin),
        ext_proc_sockets=socket or [Path("/run/epp-client/ext-proc.sock")],
        ads_socket=None if upstream_mode is UpstreamMode.ORIGINAL_DST else xds_socket,
        upstream_mode=upstream_mode,
        response_mode=response_mode,
        app_protocols={name: pool.app_protocol for name, pool in world.pools.items()},
    )
    typer.echo(text)


def _route(text: str) -> Any:
    from epp_client.pool.inference_pool import PoolName
    from epp_client.xds.bootstrap import Route

    prefix, _, pool = text.partition("=")
    namespace, slash, name = pool.partition("/")
    if not prefix.startswith("/") or not slash:
        raise SettingsError(f"--route {text!r} is not of the form /PREFIX=namespace/name")
    return Route(prefix, PoolName(namespace, name))


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"{text!r} is not of the form host:port")
    return host.strip("[]"), int(port)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Stay up afterwards and print curl lines.")] = False,
) -> None:
    """Run the whole thing on this machine: real Envoy, sidecar, pickers, model servers."""
    # grpcio would otherwise complain about the child processes that the demo starts.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    from epp_client.demo.scenario import run_demo

    raise typer.Exit(uvloop.run(run_demo(keep=keep)))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"epp-client {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Entry point; turns our own errors into one line and exit 2."""
    try:
        app()
    except EppClientError as error:
        typer.echo(f"epp-client: {error}", err=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
