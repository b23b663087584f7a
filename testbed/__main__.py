"""`make demo`: runs the real Envoy, the sidecar, pickers and model servers on this machine."""

import os
from typing import Annotated

import typer
import uvloop


def main(
    keep: Annotated[
        bool, typer.Option(help="Keep running afterwards, and print curl commands to try.")
    ] = False,
) -> None:
    """Run the demo on this machine: real Envoy, sidecar, pickers, model servers."""
    # Set before grpcio is imported: it logs complaints about our child processes otherwise.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    from testbed.demo import run_demo

    raise typer.Exit(uvloop.run(run_demo(keep=keep)))


if __name__ == "__main__":
    typer.run(main)
