"""`epp-client tap`: decisions about requests, as they fall."""

import contextlib
import json
import os
import select
import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any

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
    reasons_beginning,
    target_of,
)
from epp_client.errors import AdminUnreachable


class Output(StrEnum):
    """How decisions are printed."""

    AUTO = "auto"
    """Text on a terminal, else JSON lines."""
    TEXT = "text"
    JSON = "json"


def tap(
    admin: Admin = None,
    pod: PodName = None,
    namespace: Namespace = None,
    context: Context = None,
    pod_port: PodPort = 9902,
    up: Up = False,
    pool: Annotated[
        str, typer.Option(help="Only this pool, namespace/name.", autocompletion=pools_beginning)
    ] = "",
    reason: Annotated[
        str, typer.Option(help="Only this reason.", autocompletion=reasons_beginning)
    ] = "",
    endpoint: Annotated[
        str, typer.Option(help="Only requests that this ip:port was picked for, or served.")
    ] = "",
    request_id: Annotated[
        str, typer.Option(help="Only the request with this `x-request-id`.")
    ] = "",
    failed: Annotated[
        bool, typer.Option("--failed", help="Only what was not served as its picker said.")
    ] = False,
    last: Annotated[int, typer.Option(help="Show so many earlier ones first.", min=0, max=400)] = 0,
    follow: Annotated[
        bool, typer.Option(help="Go on. Without it: print the earlier ones, and end.")
    ] = True,
    count: Annotated[int, typer.Option(help="End after so many decisions. 0: go on.", min=0)] = 0,
    output: Annotated[
        Output,
        typer.Option(
            "--output", "-o", help="Format. `auto`: text on a terminal, else JSON lines, as for jq."
        ),
    ] = Output.AUTO,
) -> None:
    """Print a line for each decision about a request as it falls: every failure, and of the others as many
    as `serve --decision-samples` says. Ctrl-C ends it. Exits with 3 if no sidecar answers at the start."""
    from epp_client.terminal.following import decisions, earlier

    query = _query(pool=full_name(pool), reason=reason, endpoint=endpoint, request_id=request_id)
    if failed:
        query["failed"] = "1"
    try:
        with target_of(admin, pod, namespace, context, pod_port, up) as target:
            found: Iterable[dict[str, Any]]
            if follow:
                found = decisions(target, query, last, _say, _end_with_reader)
            else:
                found = earlier(target, query, last or 400)
            _print(islice(found, count) if count else found, _printer(output))
    except AdminUnreachable as error:
        raise ends_without_answer(error) from error
    except BrokenPipeError:
        # Nobody reads any more, as with `| head`. The flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return


def _query(**filters: str) -> dict[str, str]:
    return {key: value for key, value in filters.items() if value}


def _print(found: Iterable[dict[str, Any]], show: Callable[[dict[str, Any]], None]) -> None:
    for decision in found:
        show(decision)
        sys.stdout.flush()


def _printer(output: Output) -> Callable[[dict[str, Any]], None]:
    if output is Output.JSON or (output is Output.AUTO and not sys.stdout.isatty()):
        return lambda decision: print(json.dumps(decision))
    from rich.console import Console

    from epp_client.terminal.tap import line, missed

    console = Console(highlight=False, soft_wrap=True)

    def show(decision: dict[str, Any]) -> None:
        if "missed" in decision:
            console.print(missed(decision["missed"]), style="yellow", markup=False)
        else:
            console.print(line(decision))

    return show


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        typer.echo(f"epp-client: {text}", err=True)


def _end_with_reader() -> None:
    """Notice that the reader of a pipe has gone before there is something to write.

    Raises:
        BrokenPipeError: it has.
    """
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        raise BrokenPipeError
