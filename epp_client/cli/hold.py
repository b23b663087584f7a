"""`epp-client hold`: keeps the sockets of a sidecar that restarts."""

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
            help="Seconds that a socket keeps what connects while no sidecar serves it; then it refuses.",
        ),
    ] = 60.0,
) -> None:
    """Hold the ext_proc sockets of a `serve --hold` while it restarts. Never touches a request."""
    # A fresh interpreter of 10 MB in the place of this one, which has imported a command line.
    command = [sys.executable, "-m", "epp_client.hold", str(socket), str(patience)]
    os.execv(sys.executable, command)
