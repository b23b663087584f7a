"""`epp-client check`: prints the problems of files, and what `serve` would make of them."""

from collections.abc import Container
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epp_client.cli.targets import (
    Admin,
    Context,
    Namespace,
    PodName,
    PodPort,
    Up,
    ends_without_answer,
    target_of,
)
from epp_client.errors import AdminUnreachable
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import PoolSettings

if TYPE_CHECKING:
    from epp_client.terminal.target import Address, Pod


def check(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Manifest files or directories, and files for `--endpoints`; - is standard input, "
            "with manifests.",
        ),
    ],
    strict: Annotated[bool, typer.Option(help="Exit 1 on warnings as well.")] = False,
    live: Annotated[
        bool,
        typer.Option(
            help="Treat the files as the whole cluster, like `serve --pools`: a pool without an endpoint "
            "or without an address of its picker is an error."
        ),
    ] = False,
    advice: Annotated[
        bool,
        typer.Option(
            "--advice",
            help="Then ask the sidecar that serves these pools (--admin, --pod or --up) which modes would"
            " save them messages, by what their pickers have made of messages so far.",
        ),
    ] = False,
    admin: Admin = None,
    pod: PodName = None,
    namespace: Namespace = None,
    context: Context = None,
    pod_port: PodPort = 9902,
    up: Up = False,
) -> None:
    """Print each problem with its place, then what `serve` would serve; exit 1 on errors."""
    from epp_client.endpoints.lint import lint as lint_endpoints
    from epp_client.endpoints.lint import lists_endpoints
    from epp_client.files import read_file
    from epp_client.logs import configure
    from epp_client.manifests.lint import lint
    from epp_client.pool.findings import Findings
    from epp_client.pool.problems import Severity

    configure("console")
    # A large file takes seconds to parse, and a pipe can be read once.
    read = cache(read_file)
    listed = [path for path in paths if lists_endpoints(path, read)]
    objects = [path for path in paths if path not in listed]
    parts = [lint_endpoints(path, PoolSettings(), read) for path in listed]
    if objects:
        parts.append(lint(objects, PoolSettings(), live=live, read=read))
    found = Findings.of(parts)
    for problem in found.problems:
        typer.echo(f"{problem.severity}: {problem}")
    errors = sum(problem.severity is Severity.ERROR for problem in found.problems)
    typer.echo(f"{errors} errors, {len(found.problems) - errors} warnings")
    typer.echo(str(found))
    if advice:
        try:
            sidecar = target_of(admin, pod, namespace, context, pod_port, up)
            said = _advice(sidecar, found.snapshots) or [f"none from {sidecar.name}"]
        except AdminUnreachable as error:
            raise ends_without_answer(error) from error
        typer.echo("\n".join(f"hint: {line}" for line in said))
    if errors or (strict and found.problems):
        raise typer.Exit(1)


def _advice(sidecar: "Address | Pod", pools: Container[PoolName]) -> list[str]:
    """What it suggests for these pools, a line each.

    Raises:
        AdminUnreachable: it does not answer.
    """
    from epp_client.terminal.admin import read_json
    from epp_client.terminal.text import clean

    found: list[str] = []
    seen = 0
    with sidecar:
        while True:
            page = read_json(sidecar.address(), "/summary", {"offset": seen})["pools"]
            for row in page["rows"]:
                name = PoolName(row["namespace"], row["name"])
                if name in pools:
                    found += (f"{name}: {clean(text)}" for text in row.get("advice", ()))
            seen += len(page["rows"])
            if not page["rows"] or seen >= page["matching"]:
                return found
