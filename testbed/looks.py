"""Reads the state of an installation from outside: the admin page, /proc, sockets. Never changes it."""

import contextlib
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families


class AdminPage:
    """The sidecar's admin page at `address`. A failed request gives an empty page."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}"
        self._http: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open the HTTP client, in the event loop that uses it."""
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))

    async def close(self) -> None:
        """Close the HTTP client."""
        if self._http is not None:
            await self._http.close()

    async def _get(self, url: str) -> bytes | None:
        assert self._http is not None
        try:
            async with self._http.get(url) as answer:
                return await answer.read() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def readiness(self) -> str:
        """The text of `/readyz` when the sidecar is ready: `ok` and notes. Empty otherwise."""
        return (await self._get(f"{self.url}/readyz") or b"").decode()

    async def answers(self, url: str) -> bool:
        """Whether `url` answers with 200."""
        return await self._get(url) is not None

    async def metrics(self) -> dict[str, float]:
        """The metrics, summed over their labels."""
        sums: dict[str, float] = {}
        text = (await self._get(f"{self.url}/metrics") or b"").decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    async def ready_pods(self) -> list[set[str]]:
        """The ready Pods of each pool, as the sidecar knows them."""
        page: dict[str, Any] = json.loads(await self._get(f"{self.url}/pools") or b'{"pools": []}')
        return [
            {item["pod"] for item in pool["endpoints"] if item["state"] == "ready"}
            for pool in page["pools"]
        ]


class News:
    """Reads the lines that were added to a log since the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def lines(self) -> list[str]:
        """The new complete lines; none while the file does not exist."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as log:
            log.seek(self._read)
            whole, _, rest = log.read().rpartition(b"\n")
            self._read = log.tell() - len(rest)
        return whole.decode(errors="replace").splitlines()


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def ended(pid: int) -> bool:
    """Whether a process has ended. Its parent may not have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def listened(sockets: Iterable[Path]) -> bool:
    """Whether each of these Unix sockets accepts a connection."""
    for path in sockets:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except OSError:
                return False
    return True


def descriptors(pid: int) -> int:
    """Number of open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def first_free_descriptor(pid: int) -> int:
    """The number of the next descriptor. As RLIMIT_NOFILE it prevents further descriptors."""
    used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    return next(number for number in range(len(used) + 1) if number not in used)


def writers(log: Path) -> list[int]:
    """All processes whose stdout is this file, orphans included."""
    found = []
    for output in Path("/proc").glob("[0-9]*/fd/1"):
        # The process has ended.
        with contextlib.suppress(OSError):
            if output.readlink() == log:
                found.append(int(output.parts[2]))
    return found
