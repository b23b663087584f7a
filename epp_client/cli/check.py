"""`epp-client check`: prints the problems of manifests, and what `serve` would make of them."""

from pathlib import Path
from typing import Annotated

import typer

from epp_client.pool.settings import PoolSettings


def check(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Manifest files or directories; - is standard input."),
    ],
    strict: Annotated[bool, typer.Option(help="Exit 1 on warnings as well.")] = False,
    live: Annotated[
        bool,
        typer.Option(
            help="Treat the files as the whole cluster, like `serve --pools`: a pool without an endpoint "
            "or without an address of its picker is an error."
        ),
    ] = False,
) -> None:
    """Print each problem with its place, then what `serve` would serve; exit 1 on errors."""
    from epp_client.manifests.lint import lint
    from epp_client.pool.problems import Severity

    found = lint(paths, PoolSettings(), live=live)
    for problem in found.problems:
        typer.echo(f"{problem.severity}: {problem}")
    errors = sum(problem.severity is Severity.ERROR for problem in found.problems)
    typer.echo(f"{errors} errors, {len(found.problems) - errors} warnings")
    typer.echo(str(found))
    if errors or (strict and found.problems):
        raise typer.Exit(1)
