"""`epp-client check`: what is wrong with manifests, and what they would serve."""

from pathlib import Path
from typing import Annotated

import typer

from epp_client.pool.settings import PoolSettings


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
