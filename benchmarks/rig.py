"""The measured installation: one Envoy with a listener for each way to the picker.

The ways are `direct` (Envoy to picker), the rivals in between, which decide nothing (`nghttpx`, `grpc-go`,
`grpc-go-typed`, `tonic`), the sidecar with our own transport compiled (`native`) and as plain Python
(`native-python`), and the sidecar with `grpcio`.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.listeners import POOLS, admin_of, bootstrap, printed_by
from benchmarks.processes import (
    POOLS_FILE,
    SidecarProcess,
    children,
    compiled,
    cpu_seconds,
    resident,
)
from benchmarks.rivals.running import RIVALS, command, start
from epp_client.wire.http2 import frames as wire
from testbed.build_cache import Unavailable
from testbed.envoy import running_envoy
from testbed.process import Process
from testbed.stack import inference_pool, pod, service

UPSTREAM_HOST = "127.0.0.11"
SIDECARS = ("native", "native-python", "grpcio")
PATIENCE = 30.0
"""Seconds for responses after the end of a load."""


class LoadFailed(Exception):
    """Requests failed, so the measurement is invalid."""


@dataclass
class Rig:
    """The running installation. `pids` are the processes by name, each of which may be charged for a
    way."""

    ways: dict[str, str] = field(default_factory=dict)
    """Envoy's listener of each way, `host:port`."""
    pids: dict[str, list[int]] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)
    skipped: dict[str, str] = field(default_factory=dict)

    async def load(
        self,
        way: str,
        *,
        path: str = "/default/relay/v1/chat/completions",
        connections: int = 16,
        seconds: float = 3.0,
        size: int = 640,
        think: float = 0.0,
        chunks: int = 0,
        steady: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Run the client; returns its result and the CPU seconds of every process.
        For streams only the time in which all of them flow is charged. `steady` is called when it begins.

        Raises:
            LoadFailed: a response was an error, incomplete or missing.
        """
        began, ended = self._cpu(), None
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.peers.client", self.ways[way], path,
            "--connections", str(connections), "--seconds", str(seconds), "--size", str(size),
            "--think", str(think), "--chunks", str(chunks), "--patience", str(PATIENCE),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        result: dict[str, Any] = {}
        first = last = 0
        try:
            async with asyncio.timeout(seconds + 2 * PATIENCE):
                async for line in process.stdout:
                    said = json.loads(line)
                    if "steady" in said:
                        began, first = self._cpu(), said["steady"]
                        steady()
                    elif "ending" in said:
                        ended, last = self._cpu(), said["ending"]
                    else:
                        result = said
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode or not result or result["errors"]:
            raise LoadFailed(f"{way} {path}: {result.get('errors') or 'the client failed'}")
        ended = ended or self._cpu()
        result["cpu"] = {name: ended[name] - began[name] for name in self.pids}
        result["units"] = last - first if chunks else result["requests"]
        if result["units"] <= 0:
            raise LoadFailed(f"{way} {path}: nothing was measured")
        return result

    def _cpu(self) -> dict[str, float]:
        return {name: sum(map(cpu_seconds, pids)) for name, pids in self.pids.items()}

    def memory(self, way: str) -> float:
        """Resident MB of a way's relay."""
        return sum(resident(pid) for pid in self.pids[way]) / 1e6


def manifests(upstream: str, picker: str) -> list[dict[str, Any]]:
    """The pools, over one upstream and one picker."""
    ip, _, port = upstream.rpartition(":")
    return [
        pod("model-0", ip),
        *service("picker", picker),
        *(
            inference_pool(
                name,
                int(port),
                "picker",
                "FailOpen",
                annotations={
                    "epp-client.dev/request-mode": modes.request.value,
                    "epp-client.dev/response-mode": modes.response.value,
                    "epp-client.dev/tls": "plaintext",
                },
            )
            for name, modes in POOLS.items()
        ),
    ]


async def start_peers(owner: AsyncExitStack, rig: Rig) -> tuple[str, str]:
    """Start the model server and the picker, which end with `owner`, and write the pools. Returns the
    addresses of both."""
    upstream, told = await Process.python("benchmarks.peers.upstream", UPSTREAM_HOST)
    owner.push_async_callback(upstream.stop, 1)
    endpoint = str(told["address"])
    picker, told = await Process.python("benchmarks.peers.picker", endpoint)
    owner.push_async_callback(picker.stop, 1)
    rig.pids |= {"upstream": [upstream.pid], "picker": [picker.pid]}
    (rig.folder / POOLS_FILE).parent.mkdir()
    objects = manifests(endpoint, told["address"])
    (rig.folder / POOLS_FILE).write_text(yaml.safe_dump_all(objects))
    return endpoint, str(told["address"])


async def start_to_ready(rig: Rig, way: str) -> float:
    """Start another sidecar; returns the seconds until it serves."""
    async with AsyncExitStack() as owner:
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-bench-")))
        shutil.copytree((rig.folder / POOLS_FILE).parent, (folder / POOLS_FILE).parent)
        return (await SidecarProcess.start(owner, folder, way)).seconds


@asynccontextmanager
async def running_rig(
    *, churning: int | None = None, before: Path | None = None
) -> AsyncIterator[Rig]:
    """Run everything in the block. `churning`: only a sidecar of `churn`, with so many endpoints. `before`:
    another compiled checkout, whose sidecar is one more way."""
    async with AsyncExitStack() as owner:
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-bench-")))
        rig = Rig(folder=folder)
        _, picker = await start_peers(owner, rig)
        sockets: dict[str, Path] = {}
        xds = folder / "xds.sock"
        ways = SIDECARS if churning is None else ("native",)
        for way in ways if before is None else (*ways, "before"):
            sidecar = await SidecarProcess.start(
                owner,
                folder,
                way,
                xds if way == "native" else None,
                churning,
                before if way == "before" else None,
            )
            sockets[way] = sidecar.socket
            rig.pids[way] = children(sidecar.process.pid)
            rig.pids[f"{way} control"] = [sidecar.process.pid]
        _prove_compilation(rig)
        if churning is None:
            await _rivals(owner, rig, sockets, picker)
        older = None if before is None else printed_by(before, rig.folder / POOLS_FILE)
        document, rig.ways = bootstrap(sockets, xds, picker, older)
        envoy = await owner.enter_async_context(running_envoy(document, admin_of(document)))
        rig.pids["envoy"] = [envoy.process.pid]
        for way in rig.ways:
            await _warm(rig, way)
        yield rig


def _prove_compilation(rig: Rig) -> None:
    """Check that `native` and `before` are compiled, and that `native-python` is not."""
    wanted = not wire.__file__.endswith(".py")
    if compiled(rig.pids["native"][0]) != wanted:
        raise RuntimeError(
            "the native sidecar does not run the wanted modules (compiled, or plain Python)"
        )
    if "before" in rig.pids and compiled(rig.pids["before"][0]) != wanted:
        raise RuntimeError("the sidecar of --before is not compiled: run `make compiled` there")
    if "native-python" in rig.pids and compiled(rig.pids["native-python"][0]):
        raise RuntimeError("the native-python sidecar runs compiled modules")


async def _rivals(owner: AsyncExitStack, rig: Rig, sockets: dict[str, Path], picker: str) -> None:
    for way in RIVALS:
        socket = rig.folder / f"{way}.sock"
        try:
            # The first time it is built, for a minute.
            arguments = await asyncio.to_thread(command, way, socket, picker)
        except Unavailable as why:
            rig.skipped[way] = str(why)
            continue
        process = await start(owner, arguments, socket)
        sockets[way] = socket
        rig.pids[way] = [process.pid]


async def _warm(rig: Rig, way: str) -> None:
    """Wait until the way answers, then run a short load as a warm-up."""
    for attempt in range(100):
        try:
            await rig.load(way, connections=4, seconds=0.05, path=path_of(way))
            break
        except LoadFailed:
            if attempt == 99:
                raise
            await asyncio.sleep(0.1)
    await rig.load(way, connections=16, seconds=0.5, path=path_of(way))


def path_of(way: str) -> str:
    """The path of requests over a way."""
    return f"/default/{way if way in POOLS else 'relay'}/v1/chat/completions"
