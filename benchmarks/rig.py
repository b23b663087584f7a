"""The measured installation: one Envoy with a listener for each way to the picker.

The ways are `direct` (Envoy to picker), the rivals in between, which decide nothing (`nghttpx`, `grpc-go`,
`grpc-go-typed`, `tonic`), the sidecar with our own transport compiled (`native`) and as plain Python
(`native-python`), and the sidecar with `grpcio`.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.rivals.running import RIVALS, command, start
from epp_client.envoy.bootstrap import envoy_config
from epp_client.envoy.own_clusters import SIDECAR_CLUSTER
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import Modes, RequestMode, ResponseMode
from epp_client.wire.http2 import frames as wire
from testbed.build_cache import Unavailable
from testbed.envoy import running_envoy
from testbed.ports import free_ports
from testbed.process import Process
from testbed.stack import inference_pool, pod, service

Config = dict[str, Any]
HOST = "127.0.0.10"
UPSTREAM_HOST = "127.0.0.11"
POOLS = {
    "relay": Modes(),
    "observe": Modes(response=ResponseMode.OBSERVE),
    "skip": Modes(response=ResponseMode.SKIP),
    "headers-skip": Modes(RequestMode.HEADERS, ResponseMode.SKIP),
    "headers-none": Modes(RequestMode.HEADERS, ResponseMode.NONE),
}
"""What the picker of each pool gets."""
SIDECARS = ("native", "native-python", "grpcio")
POOLS_FILE = Path("pools/pools.yaml")
"""In a directory of its own, which the sidecar watches."""
SOURCES = Path(__file__).parent.parent
PATIENCE = 30.0
"""Seconds for responses after the end of a load."""


_SERVING = re.compile(r"\bserving\b.*sockets|sockets.*\bserving\b")
"""The sidecar's log line once it serves. Its sockets queue connections before."""


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


class Printed(NamedTuple):
    """What envoy-config prints."""

    document: Config
    """Without a listener for clients, and without the cluster of the sidecar."""
    listener: Config
    """To be copied, as the cluster is."""
    cluster: Config


def printed(ports: Iterator[int], socket: Path, xds: Path) -> Printed:
    """The bootstrap for one ext_proc socket. `ports` are free."""
    document: Config = yaml.safe_load(
        envoy_config(
            [PoolName("default", pool) for pool in POOLS],
            modes={PoolName("default", pool): modes for pool, modes in POOLS.items()},
            listener=(HOST, next(ports)),
            admin=(HOST, next(ports)),
            ext_proc_sockets=[socket],
            ads_socket=xds,
            access_log=False,
        )
    )
    return _parts(document)


def printed_by(checkout: Path, pools: Path) -> Printed:
    """What the envoy-config of another checkout prints, without access log."""
    found = subprocess.run(
        [
            checkout / ".venv/bin/epp-client", "envoy-config", "--pools", pools,
            "--socket", "/unused", "--xds-socket", "/unused-xds",
        ],
        env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    parts = _parts(yaml.safe_load(found.stdout))
    del manager_of(parts.listener)["access_log"]
    return parts


def _parts(document: Config) -> Printed:
    static = document["static_resources"]
    cluster = next(c for c in static["clusters"] if c["name"] == SIDECAR_CLUSTER)
    static["clusters"].remove(cluster)
    return Printed(document, static["listeners"].pop(), cluster)


def manager_of(listener: Config) -> Config:
    """The HTTP connection manager of a listener."""
    found: Config = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def bootstrap(
    rig: Rig, sockets: dict[str, Path], xds: Path, picker: str, before: Path | None = None
) -> Config:
    """The bootstrap of envoy-config, with a copy of its listener for each way, which differs in the
    ext_proc cluster. `before`: the checkout of the way `before`, whose listener it prints itself."""
    ports = iter(free_ports(2 * len(sockets) + 4))
    document, usual, usual_cluster = printed(ports, Path("/unused"), xds)
    static = document["static_resources"]
    clusters = static["clusters"]
    for way in ("direct", *sockets):
        listener, template = usual, usual_cluster
        if way == "before" and before is not None:
            _, listener, template = printed_by(before, rig.folder / POOLS_FILE)
        cluster = deepcopy(template)
        cluster["name"] = cluster["load_assignment"]["cluster_name"] = way
        if way == "direct":
            ip, _, port = picker.rpartition(":")
            address: dict[str, Any] = {"socket_address": {"address": ip, "port_value": int(port)}}
        else:
            address = {"pipe": {"path": str(sockets[way])}}
        [locality] = cluster["load_assignment"]["endpoints"]
        locality["lb_endpoints"] = [{"endpoint": {"address": address}}]
        clusters.append(cluster)
        own = deepcopy(listener)
        own["name"] = way
        own["address"]["socket_address"] |= {"address": HOST, "port_value": (number := next(ports))}
        manager = manager_of(own)
        manager["stat_prefix"] = way
        ext_proc = manager["http_filters"][0]["typed_config"]
        ext_proc["grpc_service"]["envoy_grpc"]["cluster_name"] = way
        static["listeners"].append(own)
        rig.ways[way] = f"{HOST}:{number}"
    return document


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
        document = bootstrap(rig, sockets, xds, picker, before)
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


def admin_of(document: Config) -> tuple[str, int]:
    address = document["admin"]["address"]["socket_address"]
    return address["address"], address["port_value"]


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
