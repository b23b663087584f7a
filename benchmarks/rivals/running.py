"""Starts the rivals, each of which listens on a Unix socket as Envoy's ext_proc server, with one worker."""

import asyncio
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.rivals.build import built
from testbed.build_cache import Unavailable
from testbed.process import Process

BUILT = {
    "grpc-go": ("grpc_go", ()),
    "grpc-go-typed": ("grpc_go", ("-typed",)),
    "tonic": ("tonic", ()),
}
"""The program and the options of each way that is a rival of our own."""
RIVALS = ("nghttpx", *BUILT)
_PATIENCE = 10.0
"""Seconds until a rival listens."""


def command(way: str, socket: Path, picker: str) -> list[str]:
    """The command of a rival between `socket` and the `picker`, which is host:port. Builds it, if need be.

    Raises:
        Unavailable: it is not installed and cannot be built.
    """
    if way == "nghttpx":
        return _nghttpx(socket, picker)
    program, options = BUILT[way]
    path = built(program)
    return ["env", "GOMAXPROCS=1", str(path), *options, str(socket), picker]


def _nghttpx(socket: Path, picker: str) -> list[str]:
    if shutil.which("nghttpx") is None:
        raise Unavailable("not installed: apt-get install nghttp2-proxy")
    host, _, port = picker.rpartition(":")
    return [
        "nghttpx", f"--frontend=unix:{socket};no-tls", f"--backend={host},{port};/;proto=h2",
        "--workers=1", "--no-via", "--no-add-x-forwarded-proto", "--errorlog-file=/dev/null",
        "--conf=/dev/null", "--no-ocsp",
        "--frontend-http2-max-concurrent-streams=65536",
        "--backend-http2-max-concurrent-streams=65536",
        "--worker-frontend-connections=0", "--single-process",
    ]  # fmt: skip


async def start(owner: AsyncExitStack, arguments: list[str], socket: Path) -> Process:
    """Start a rival, which ends with `owner`; returns when it listens.

    Raises:
        RuntimeError: it does not listen; the text has its output.
    """
    process = await Process.start(*arguments)
    owner.push_async_callback(process.stop, 1)
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while not socket.exists():
        if not process.running or asyncio.get_running_loop().time() > deadline:
            raise RuntimeError(f"{' '.join(arguments)} did not start:\n{process.tail}")
        await asyncio.sleep(0.01)
    return process
