"""`make demo`: the whole thing on this machine, with the real Envoy, pickers and model servers."""

import os
from typing import Annotated

import typer
import uvloop


def main(
    keep: Annotated[bool, typer.Option(help="Stay up afterwards and print curl lines.")] = False,
) -> None:
    """Run the whole thing on this machine: real Envoy, sidecar, pickers, model servers."""
    # grpcio would otherwise complain about the child processes that we start; before it is imported.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    from testbed.demo import run_demo

    raise typer.Exit(uvloop.run(run_demo(keep=keep)))


if __name__ == "__main__":
    typer.run(main)
