"""`epp-client pick`: asks a pool's picker once and prints its answer."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from epp_client.cli.options import settings_as_options
from epp_client.errors import SettingsError
from epp_client.pool.settings import PoolSettings
from epp_client.settings import EndpointSettings, valid
from epp_client.tls_settings import ClientTls

if TYPE_CHECKING:
    from epp_client.picker.ask import PickReport
    from epp_client.pool.snapshot import PoolSnapshot


@settings_as_options(tls=ClientTls, endpoints=EndpointSettings)
def pick(
    pool: Annotated[str, typer.Argument(help="namespace/name of the InferencePool.")],
    tls: dict[str, Any],
    endpoints: dict[str, Any],
    pools: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Manifest file or directory, as given to `serve`.",
            envvar="EPP_CLIENT_POOLS",
        ),
    ] = None,
    body: Annotated[
        str, typer.Option(help="Request body, or @FILE.")
    ] = '{"model":"m","prompt":"hi"}',
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="`name: value`, repeatable.")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds for the pick, unless an annotation of the pool sets it.", min=0.1
        ),
    ] = 10.0,
) -> None:
    """Ask a pool's picker once and print the endpoints, the mutations and the latency."""
    from epp_client.logs import configure
    from epp_client.picker.ask import ask_picker
    from epp_client.wire.native import NativeTransport

    configure("console", "warning")
    defaults = valid(PoolSettings, {"tls": tls, "pick_timeout": timeout})
    snapshot = _snapshot(pool, pools, valid(EndpointSettings, endpoints), defaults)
    content = _content(body)
    headers = [(":method", "POST"), (":path", "/v1/completions")]
    for line in header or []:
        name, colon, value = line.partition(":")
        if not colon:
            raise SettingsError(f"--header {line!r} is not of the form 'name: value'")
        headers.append((name.strip(), value.strip()))
    report = asyncio.run(ask_picker(snapshot, NativeTransport(), headers, content))
    table = _table(pool, snapshot, report, content)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if report.problem is not None or report.refused is not None:
        raise typer.Exit(1)


def _snapshot(
    pool: str, pools: Path | None, endpoints: EndpointSettings, defaults: PoolSettings
) -> "PoolSnapshot":
    from epp_client.endpoints.source import EndpointSource
    from epp_client.manifests.source import ManifestSource
    from epp_client.pool.store import PoolStore

    try:
        endpoints.check_source(
            pools is not None, names="--pools PATH, --endpoint IP:PORT or --endpoints FILE"
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    store = PoolStore()
    if pools is not None:
        ManifestSource(pools, store, defaults, lambda: 0.0).reload()
    else:
        asyncio.run(EndpointSource(endpoints, store, defaults, lambda: 0.0).reload())
    snapshot = store.snapshots.get(pool)
    if snapshot is None:
        known = ", ".join(sorted(store.snapshots)) or "none"
        where = pools or endpoints.endpoints or "the options"
        for problem in store.problems:
            typer.echo(f"{problem.severity}: {problem}", err=True)
        raise SettingsError(f"no InferencePool {pool} in {where}; it has: {known}")
    return snapshot


def _table(pool: str, snapshot: "PoolSnapshot", report: "PickReport", content: bytes) -> Table:
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
    return table


def _content(body: str) -> bytes:
    if not body.startswith("@"):
        return body.encode()
    try:
        return Path(body[1:]).read_bytes()
    except OSError as error:
        raise SettingsError(f"--body {body}: {error.strerror}") from error
