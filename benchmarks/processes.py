"""The measured processes: starts a sidecar, and reads the CPU time and memory of any."""

import asyncio
import re
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from testbed.process import Process

POOLS_FILE = Path("pools/pools.yaml")
"""In a directory of its own, which the sidecar watches."""
SOURCES = Path(__file__).parent.parent
_SERVING = re.compile(r"\bserving\b.*sockets|sockets.*\bserving\b")
"""The sidecar's log line once it serves. Its sockets queue connections before."""


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, with a resolution of nanoseconds."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def children(pid: int) -> list[int]:
    """Child processes of a process."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def compiled(pid: int) -> bool:
    """Whether a process runs the compiled hot path, by its memory mappings."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return any("/epp_client/" in line and line.endswith(".so") for line in maps)


class SidecarProcess:
    """A sidecar of the rig, which serves."""

    def __init__(self, process: Process, socket: Path, seconds: float) -> None:
        self.process = process
        self.socket = socket
        self.seconds = seconds
        """Seconds from its start until it serves with its pools."""

    @classmethod
    async def start(
        cls,
        owner: AsyncExitStack,
        folder: Path,
        way: str,
        xds: Path | None = None,
        churning: int | None = None,
        before: Path | None = None,
    ) -> "SidecarProcess":
        """Start the sidecar of `way`, which ends with `owner`. `churning`: that of `churn`, with so many
        endpoints. `before`: the checkout of the way `before`."""
        socket = folder / f"{way}.sock"
        socket.unlink(missing_ok=True)
        # PYTHONSAFEPATH, as the working directory may have other modules of this name.
        transport = "grpcio" if way == "grpcio" else "native"
        command = [sys.executable, "-m", "epp_client", "serve"]
        if churning is not None:
            command = [sys.executable, "-m", "benchmarks.churn", "--endpoints", str(churning)]
        elif way == "native-python":
            command = ["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={SOURCES}", *command]
        elif before is not None:
            modules = f"PYTHONPATH={before / 'build/compiled'}"
            command = [
                "env",
                "PYTHONSAFEPATH=1",
                modules,
                str(before / ".venv/bin/epp-client"),
                "serve",
            ]
        if churning is None:
            command += ["--admin", "127.0.0.1:0", "--transport", transport]
        began = time.monotonic()
        process = await Process.start(
            *command,
            "--pools", str(folder / POOLS_FILE), "--socket", str(socket),
            "--xds-socket", str(xds or folder / f"{way}-xds.sock"),
        )  # fmt: skip
        owner.push_async_callback(process.stop, 3)
        while not _SERVING.search(process.tail):
            if not process.running or time.monotonic() > began + 60:
                raise RuntimeError(f"the {way} sidecar did not start:\n{process.tail}")
            await asyncio.sleep(0.002)
        return cls(process, socket, time.monotonic() - began)
