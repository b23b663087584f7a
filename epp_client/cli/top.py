"""`epp-client top`: the traffic of pools, or of one pool's endpoints, live."""

import sys
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
    full_name,
    pools_beginning,
    target_of,
)
from epp_client.errors import AdminUnreachable

MOST = 500
"""Pools that a sidecar sends."""


def top(
    admin: Admin = None,
    pod: PodName = None,
    namespace: Namespace = None,
    context: Context = None,
    pod_port: PodPort = 9902,
    up: Up = False,
    pool: Annotated[
        str,
        typer.Option(
            help="namespace/name of a pool whose pickers and endpoints are shown.",
            autocompletion=pools_beginning,
        ),
    ] = "",
    text: Annotated[
        str,
        typer.Option("--filter", help="Show only pools, or endpoints, with this in their names."),
    ] = "",
    once: Annotated[
        bool, typer.Option("--once", help="Print one frame. So it is too if stdout is no terminal.")
    ] = False,
) -> None:
    """Show the last minute of each pool, live: requests a second, how they were decided, latencies, what is
    in flight. Pools in trouble come first, then the busiest. Quit with q. Exits with 3 if no sidecar
    answers at the start."""
    from epp_client.terminal.screen import once as one_frame
    from epp_client.terminal.screen import run

    query = {"limit": MOST, "q": full_name(pool) or text}
    if pool:
        query |= {"open": pool, "endpoints": text}
    show = one_frame if once or not sys.stdout.isatty() else run
    try:
        with target_of(admin, pod, namespace, context, pod_port, up) as target:
            show(target, query, pool)
    except AdminUnreachable as error:
        raise ends_without_answer(error) from error
