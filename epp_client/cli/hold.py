"""`epp-client hold`: starts the process that keeps the sockets of a restarting sidecar."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def hold(
    socket: Annotated[
        Path, typer.Option(help="Unix socket for `serve --hold`.", envvar="EPP_CLIENT_HOLD")
    ] = Path("/run/epp-client/hold.sock"),
    patience: Annotated[
        float,
        typer.Option(
            min=1,
            help="Seconds that a socket queues new connections while no sidecar serves it; then it "
            "refuses them.",
        ),
    ] = 60.0,
) -> None:
    """Keep the ext_proc sockets of a `serve --hold` open while it restarts. Never reads a request."""
    # A new interpreter takes 10 MB; this one has imported the whole command line.
    command = [sys.executable, "-m", "epp_client.hold", str(socket), str(patience)]
    os.execv(sys.executable, command)
