"""`epp-client routes`: prints the route tables of the Gateways in manifests."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from epp_client.gateway.rows import Row
    from epp_client.gateway.world import GatewayResolution


class Output(StrEnum):
    """How the table is printed."""

    TABLE = "table"
    JSON = "json"


def routes(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Manifest files or directories; - is standard input."),
    ],
    gateway: Annotated[
        str, typer.Option(help="namespace/name of one Gateway. Default: all of them.")
    ] = "",
    output: Annotated[Output, typer.Option("--output", "-o", help="Format.")] = Output.TABLE,
) -> None:
    """Print which requests go where, by the Gateways and HTTPRoutes of manifests; exit 1 without a
    Gateway.

    Rows are in the order in which Envoy compares them: for a hostname the first match decides.
    """
    from epp_client.gateway.as_json import pieces
    from epp_client.gateway.resolve import resolve_gateway
    from epp_client.gateway.rows import table_rows
    from epp_client.manifests.files import load
    from epp_client.manifests.world import Loaded, contents_of
    from epp_client.pool.problems import Severity
    from epp_client.pool.settings import PoolSettings

    loads = [load(path) for path in paths]
    loaded = Loaded({name: found for one in loads for name, found in one.objects.items()})
    contents = contents_of(loaded, PoolSettings(), {})
    problems = [problem for one in loads for problem in one.problems] + [*contents.problems]
    found: list[GatewayResolution] = []
    for name, world in contents.gateways.items():
        if gateway in ("", str(name)):
            resolution = resolve_gateway(world, None)
            problems += resolution.problems
            found.append(resolution)
    for problem in dict.fromkeys(problems):
        if problem.severity is Severity.ERROR:
            typer.echo(f"error: {problem}", err=True)
    if not found:
        named = f"Gateway {gateway}" if gateway else "Gateway"
        typer.echo(f"no {named} found in {', '.join(map(str, paths))}", err=True)
        raise typer.Exit(1)
    if output is Output.JSON:
        documents = [json.loads("".join(pieces(one))) for one in found]
        typer.echo(json.dumps(documents, indent=2))
        return
    for one in found:
        typer.echo(f"Gateway {one.table.gateway}")
        _show([*table_rows(one.table)])


def _show(rows: "Sequence[Row]") -> None:
    heads = ("LISTENER", "HOST", "MATCH", "TO", "FROM")
    lines = [heads, *(tuple(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
    if not rows:
        typer.echo("(no route is served; see `epp-client check`)")
