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
from epp_client.envoy_command import envoy_config
from epp_client.errors import EppClientError, SettingsError
from epp_client.pool.settings import (
    STEERING_HEADERS,
    PickerTls,
    PickerTlsMode,
    PoolSettings,
    ResponseMode,
)
from epp_client.settings import (
    TransportName,
    UpstreamMode,
    serve_settings,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="The InferencePool data plane for Envoy: asks the Endpoint Picker about each request, "
    "checks the answer, survives the picker's failures.",
)

_POOLS_HELP = (
    "Manifest file or directory (YAML or JSON) with InferencePools, Pods, Services and "
    "EndpointSlices, e.g. from `kubectl get inferencepools,pods,services,endpointslices -o yaml`."
)
PoolsPath = Annotated[
    Path,
    typer.Option("--pools", exists=True, help=_POOLS_HELP, envvar="EPP_CLIENT_POOLS"),
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
PickerCa = Annotated[Path | None, typer.Option(help="PEM bundle to verify pickers.")]
PickerCert = Annotated[Path | None, typer.Option(help="Client certificate (mTLS).")]
PickerKey = Annotated[Path | None, typer.Option(help="Its key.")]


@app.command()
def serve(
    pools: Annotated[
        Path | None,
        typer.Option(exists=True, help=_POOLS_HELP, envvar="EPP_CLIENT_POOLS"),
    ] = None,
    kubernetes: Annotated[
        bool,
        typer.Option(
            "--kubernetes",
            help="Follow the Kubernetes API instead of --pools: as the Pod's ServiceAccount, else by "
            "kubeconfig.",
            envvar="EPP_CLIENT_KUBERNETES",
        ),
    ] = False,
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="Follow the InferencePools of this namespace, repeatable. Default: all."),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(help="namespace/name of one InferencePool to follow, repeatable."),
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="kubeconfig file. Default: $KUBECONFIG, ~/.kube/config.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    last_known: Annotated[
        Path | None,
        typer.Option(
            help="File for what the API server has told last: a start without the server goes on from it.",
            envvar="EPP_CLIENT_LAST_KNOWN",
        ),
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(
            help="namespace/name of the Gateway that this sidecar serves: the status of its "
            "InferencePools is reported.",
            envvar="EPP_CLIENT_GATEWAY",
        ),
    ] = None,
    controller_name: Annotated[
        str | None,
        typer.Option(help="Name to report as. Default: epp-client.dev/gateway."),
    ] = None,
    lease_namespace: Annotated[
        str | None,
        typer.Option(help="Of the Lease by which one replica reports. Default: the Pod's."),
    ] = None,
    status: Annotated[bool, typer.Option(help="Report status, given a --gateway.")] = True,
    socket: Annotated[
        Path, typer.Option(help="Unix socket for ext_proc.", envvar="EPP_CLIENT_SOCKET")
    ] = Path("/run/epp-client/ext-proc.sock"),
    xds_socket: Annotated[
        Path | None, typer.Option(help="Unix socket for ADS.", envvar="EPP_CLIENT_XDS_SOCKET")
    ] = Path("/run/epp-client/xds.sock"),
    hold: Annotated[
        Path | None,
        typer.Option(
            help="Socket of an `epp-client hold`: the ext_proc sockets outlive this process, and what "
            "comes while it restarts waits for the next one.",
            envvar="EPP_CLIENT_HOLD",
        ),
    ] = None,
    xds: Annotated[bool, typer.Option(help="Serve clusters and endpoints to Envoy.")] = True,
    admin: Annotated[
        str, typer.Option(help="host:port of the admin page.", envvar="EPP_CLIENT_ADMIN")
    ] = "127.0.0.1:9902",
    admin_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Further name by which the admin page may be asked for, repeatable. Always allowed: "
            "localhost, the address that a request came to, the host of --admin, this machine's name.",
            envvar="EPP_CLIENT_ADMIN_HOSTS",
        ),
    ] = None,
    transport: Annotated[
        TransportName,
        typer.Option(help="Our own gRPC wire, or grpcio.", envvar="EPP_CLIENT_TRANSPORT"),
    ] = TransportName.NATIVE,
    workers: Annotated[
        int,
        typer.Option(
            help="Relay processes, one socket each (ext-proc-0.sock and so on when there are several); "
            "0 relays in the control process. SIGHUP replaces them without cutting a stream.",
            envvar="EPP_CLIENT_WORKERS",
        ),
    ] = 1,
    upstream_mode: Annotated[
        UpstreamMode, typer.Option(help="How Envoy reaches the destination endpoint.")
    ] = UpstreamMode.OVERRIDE_HOST,
    picker_tls: Tls = PickerTlsMode.UNVERIFIED,
    picker_ca: PickerCa = None,
    picker_cert: PickerCert = None,
    picker_key: PickerKey = None,
    connect_timeout: Annotated[float, typer.Option(help="Seconds to reach a picker.")] = 1.0,
    pick_timeout: Annotated[
        float,
        typer.Option(help="Seconds from the end of the request to the pick, queueing included."),
    ] = 300.0,
    response_timeout: Annotated[
        float, typer.Option(help="Seconds for an answer in the response phase.")
    ] = 10.0,
    response_mode: Annotated[
        ResponseMode, typer.Option(help="What pickers get to do with responses.")
    ] = ResponseMode.RELAY,
    drain_grace: Annotated[
        float,
        typer.Option(help="Seconds that an endpoint which stopped being ready stays a valid pick."),
    ] = 5.0,
    endpoint_wait: Annotated[
        float, typer.Option(help="Seconds that a pick may wait for the table, or Envoy, to follow.")
    ] = 0.25,
    strip_headers: Annotated[
        str,
        typer.Option(
            help="Request headers that are taken out of what clients send, with commas; empty: none. "
            "The destination headers always are."
        ),
    ] = ",".join(STEERING_HEADERS),
    max_exchanges: Annotated[int, typer.Option(help="Requests held at once.")] = 10_000,
    max_retained_body: Annotated[
        int, typer.Option(help="Bytes of one request body kept for a replay.")
    ] = 16 * 1024 * 1024,
    max_body_growth: Annotated[
        int,
        typer.Option(help="Bytes that a picker may answer beyond what Envoy sends of a request."),
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
    _quiet_grpc()
    from epp_client.logs import configure
    from epp_client.workers.claims import Claims

    configure(log_format, log_level)
    settings = serve_settings(
        {
            "pools": pools,
            "kubernetes": _kubernetes(
                kubernetes,
                kubeconfig=kubeconfig,
                context=context,
                namespaces=namespace,
                named_pools=pool,
                last_known=last_known,
                gateway=gateway,
                controller_name=controller_name,
                lease_namespace=lease_namespace,
                status=status,
            ),
            "socket": socket,
            "hold": hold,
            "xds_socket": xds_socket if xds else None,
            "admin": admin,
            "admin_hosts": admin_host or (),
            "transport": transport,
            "workers": workers,
            "upstream_mode": upstream_mode,
            "max_exchanges": max_exchanges,
            "max_retained_total": max_retained_total,
            "drain_timeout": drain_timeout,
            "log_format": log_format,
            "log_level": log_level,
            "pool_defaults": {
                "tls": _tls(picker_tls, picker_ca, picker_cert, picker_key),
                "connect_timeout": connect_timeout,
                "pick_timeout": pick_timeout,
                "response_timeout": response_timeout,
                "response_mode": response_mode,
                "max_retained_body": max_retained_body,
                "max_body_growth": max_body_growth,
                "drain_grace": drain_grace,
                "endpoint_wait": endpoint_wait,
                "strip_headers": strip_headers,
            },
        }
    )
    claims = Claims(settings.sockets)
    if workers:
        claims.claim()  # before the imports that take most of a start
    from epp_client.app import serve as serve_app

    uvloop.run(serve_app(settings, claims))


def _tls(mode: PickerTlsMode, ca: Path | None, cert: Path | None, key: Path | None) -> PickerTls:
    if key is not None and cert is None:
        raise typer.BadParameter(
            "a key needs its certificate: --picker-cert", param_hint="--picker-key"
        )
    return PickerTls(mode=mode, ca_file=ca, cert_file=cert, key_file=key)


@app.command()
def hold(
    socket: Annotated[
        Path, typer.Option(help="Unix socket for `serve --hold`.", envvar="EPP_CLIENT_HOLD")
    ] = Path("/run/epp-client/hold.sock"),
    patience: Annotated[
        float,
        typer.Option(
            min=1,
            help="Seconds that a socket keeps what connects while no sidecar serves it; then it refuses.",
        ),
    ] = 60.0,
) -> None:
    """Hold the ext_proc sockets of a `serve --hold` while it restarts. Never touches a request."""
    # A fresh interpreter of 10 MB in the place of this one, which has imported a command line.
    command = [sys.executable, "-m", "epp_client.hold", str(socket), str(patience)]
    os.execv(sys.executable, command)


def _kubernetes(wanted: bool, *, status: bool, **given: Any) -> dict[str, Any] | None:
    """The settings behind `--kubernetes`; None without it."""
    given = {name: value for name, value in given.items() if value}
    if wanted:
        return {**given, "status": status}
    if given:
        names = [_OPTIONS.get(name, f"--{name.replace('_', '-')}") for name in given]
        raise SettingsError(f"{', '.join(names)}: needs --kubernetes")
    return None


_OPTIONS = {"namespaces": "--namespace", "named_pools": "--pool"}


@app.command()
def check(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Manifest files or folders; - is standard input."),
    ],
    strict: Annotated[bool, typer.Option(help="Exit 1 on warnings as well.")] = False,
    live: Annotated[
        bool,
        typer.Option(
            help="These files are all there is, as for serve --pools: a pool without an endpoint or an "
            "address of its picker is an error."
        ),
    ] = False,
) -> None:
    """Lint manifests: one located line per problem, then what would be served; exit 1 on errors."""
    from epp_client.pool.manifests import lint
    from epp_client.pool.problems import Severity

    found = lint(paths, PoolSettings(), live=live)
    for problem in found.problems:
        typer.echo(f"{problem.severity}: {problem}")
    errors = sum(problem.severity is Severity.ERROR for problem in found.problems)
    typer.echo(f"{errors} errors, {len(found.problems) - errors} warnings")
    typer.echo(str(found))
    if errors or (strict and found.problems):
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
    timeout: Annotated[
        float, typer.Option(help="Seconds for the pick, unless the pool is annotated.", min=0.1)
    ] = 10.0,
    picker_tls: Tls = PickerTlsMode.UNVERIFIED,
    picker_ca: PickerCa = None,
    picker_cert: PickerCert = None,
    picker_key: PickerKey = None,
) -> None:
    """Ask a pool's picker once and print the endpoints, the mutations and the latency."""
    from epp_client.logs import configure
    from epp_client.picker.ask import ask_picker
    from epp_client.pool.manifests import ManifestSource
    from epp_client.pool.store import PoolStore
    from epp_client.wire.native import NativeTransport

    configure("console", "warning")
    store = PoolStore()
    tls = _tls(picker_tls, picker_ca, picker_cert, picker_key)
    defaults = PoolSettings(tls=tls, pick_timeout=timeout)
    ManifestSource(pools, store, defaults, lambda: 0.0).reload()
    snapshot = store.snapshots.get(pool)
    if snapshot is None:
        known = ", ".join(sorted(store.snapshots)) or "none"
        raise SettingsError(f"no InferencePool {pool} in {pools}; there are: {known}")
    content = _content(body)
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


def _content(body: str) -> bytes:
    if not body.startswith("@"):
        return body.encode()
    try:
        return Path(body[1:]).read_bytes()
    except OSError as error:
        raise SettingsError(f"--body {body}: {error.strerror}") from error


app.command("envoy-config")(envoy_config)


def _quiet_grpc() -> None:
    """grpcio would otherwise complain about the child processes that we start. Before it is imported."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")


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
    """Run the command; turns our own errors into one line and exit 2."""
    try:
        app()
    except EppClientError as error:
        typer.echo(f"epp-client: {error}", err=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
