"""`epp-client status`: is anything wrong, since when, and what to do."""

import json
import sys
from enum import StrEnum
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


class Output(StrEnum):
    """How it is printed."""

    TEXT = "text"
    JSON = "json"


def status(
    admin: Admin = None,
    pod: PodName = None,
    namespace: Namespace = None,
    context: Context = None,
    pod_port: PodPort = 9902,
    up: Up = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="Format.")] = Output.TEXT,
) -> None:
    """Print on one screen whether a sidecar works: what is wrong, since when, and what to do.

    Exits with 0 if nothing is wrong, 1 if something is but requests are served, 2 if requests are refused
    or served without their picker, 3 if no sidecar answers. A wrong option is 2 too.
    """
    from rich.console import Console

    from epp_client.terminal.admin import read_json
    from epp_client.terminal.status import POOLS, exit_code, screen

    try:
        with target_of(admin, pod, namespace, context, pod_port, up) as target:
            said = read_json(target.address(), "/summary", {"limit": POOLS})
            code = exit_code(said)
    except AdminUnreachable as error:
        raise ends_without_answer(error) from error
    if output is Output.JSON:
        typer.echo(json.dumps(said, indent=2))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
        console.print(screen(said, target.name, console.width))
    raise typer.Exit(code)
