"""`epp-client pick`: asks a pool's picker once and prints its answer."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epp_client.cli.options import settings_as_options
from epp_client.errors import SettingsError
from epp_client.pool.settings import PoolSettings
from epp_client.settings import SourceSettings, valid
from epp_client.tls_settings import ClientTls

if TYPE_CHECKING:
    from rich.table import Table

    from epp_client.picker.ask import PickReport
    from epp_client.pool.snapshot import PoolSnapshot
    from epp_client.pool.store import PoolStore

LIST_TIMEOUT = 10.0
"""Seconds to read the pools of a cluster."""

_NOT_FOR_PICKS = ("last_known", "gateway", "controller_name", "lease_namespace", "status")
"""Settings of an API server that a single pick does not need."""


@settings_as_options(*_NOT_FOR_PICKS, tls=ClientTls, source=SourceSettings)
def pick(
    pool: Annotated[str, typer.Argument(help="namespace/name of the InferencePool.")],
    tls: dict[str, Any],
    source: dict[str, Any],
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
    from rich.console import Console

    from epp_client.logs import configure
    from epp_client.picker.ask import ask_picker
    from epp_client.wire.native import NativeTransport

    configure("console", "warning")
    defaults = valid(PoolSettings, {"tls": tls, "pick_timeout": timeout})
    snapshot = read_snapshot(pool, valid(SourceSettings, source), defaults)
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


def read_snapshot(pool: str, settings: SourceSettings, defaults: PoolSettings) -> "PoolSnapshot":
    """The pool, as its source has it now.

    Raises:
        SettingsError: there is no such pool, or the source cannot be read.
    """
    from epp_client.endpoints.source import EndpointSource
    from epp_client.manifests.source import ManifestSource
    from epp_client.pool.store import PoolStore

    store = PoolStore()
    if settings.pools is not None:
        ManifestSource(settings.pools, store, defaults, lambda: 0.0).reload()
    elif settings.kubernetes is not None:
        asyncio.run(_follow(settings, store, defaults))
    else:
        asyncio.run(EndpointSource(settings.endpoints, store, defaults, lambda: 0.0).reload())
    snapshot = store.snapshots.get(pool)
    if snapshot is None:
        known = ", ".join(sorted(store.snapshots)) or "none"
        where = settings.pools or settings.endpoints.endpoints or "the options"
        if settings.kubernetes is not None and not settings.endpoints.selects:
            where = "the cluster"
        for problem in store.problems:
            typer.echo(f"{problem.severity}: {problem}", err=True)
        raise SettingsError(f"no InferencePool {pool} in {where}; it has: {known}")
    return snapshot


async def _follow(settings: SourceSettings, store: "PoolStore", defaults: PoolSettings) -> None:
    """Follow the cluster until its pools are known.

    Raises:
        SettingsError: they are not in time, or the API server cannot be followed at all.
    """
    from epp_client.kubernetes.pools import KubernetesPools

    assert settings.kubernetes is not None
    known, missing = asyncio.Event(), "the API server does not answer"

    def listed(text: str) -> None:
        nonlocal missing
        missing = text
        if not text:
            known.set()

    clock = asyncio.get_running_loop().time
    pools = KubernetesPools(settings.kubernetes, store, defaults, clock, listed, settings.endpoints)
    following = asyncio.create_task(pools.run())
    waiting = asyncio.create_task(known.wait())
    await asyncio.wait(
        {following, waiting}, timeout=LIST_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
    )
    waiting.cancel()
    failed = following.exception() if following.done() else None
    following.cancel()
    await asyncio.wait({following, waiting})
    if failed is not None:
        raise failed
    if not known.is_set():
        raise SettingsError(f"the pools cannot be read: {missing}")


def _table(pool: str, snapshot: "PoolSnapshot", report: "PickReport", content: bytes) -> "Table":
    from rich.table import Table

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
