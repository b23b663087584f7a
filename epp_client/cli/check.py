"""`epp-client check`: prints the problems of files, and what `serve` would make of them."""

from collections.abc import Container, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated

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
            with target_of(admin, pod, namespace, context, pod_port, up) as target:
                said = [*_advice(target.address(), found.snapshots)]
        except AdminUnreachable as error:
            raise ends_without_answer(error) from error
        for line in said or [f"none from {target.name}"]:
            typer.echo(f"hint: {line}")
    if errors or (strict and found.problems):
        raise typer.Exit(1)


def _advice(address: str, pools: Container[PoolName]) -> Iterator[str]:
    """What the sidecar suggests for these pools, a line each.

    Raises:
        AdminUnreachable: it does not answer.
    """
    from epp_client.terminal.admin import read_json
    from epp_client.terminal.text import clean

    seen = 0
    while True:
        page = read_json(address, "/summary", {"offset": seen})["pools"]
        for row in page["rows"]:
            name = PoolName(row["namespace"], row["name"])
            if name in pools:
                yield from (f"{name}: {clean(text)}" for text in row.get("advice", ()))
        seen += len(page["rows"])
        if not page["rows"] or seen >= page["matching"]:
            return
