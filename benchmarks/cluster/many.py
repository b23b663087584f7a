"""Measures a sidecar that follows 10 000 Pods in 20 pools: time to ready, memory, traffic, CPU."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cluster.population import create_all, pod, pool
from testbed.cluster import objects
from testbed.cluster.api import Api, Kubeconfig
from testbed.cluster.control_plane import HOST, ControlPlane
from testbed.cluster.gateway import running_sidecar

PODS, POOLS = 10_000, 20
CHANGES = 200
IDLE = 20.0
"""Seconds without changes."""


@dataclass
class Traffic:
    """Bytes between the sidecar and the API server on TCP, with TLS."""

    port: int = 0
    sent: int = 0
    received: int = 0


@asynccontextmanager
async def counted(target: str) -> AsyncIterator[Traffic]:
    """A TCP proxy to `https://host:port` that counts bytes."""
    host, _, port = target.removeprefix("https://").rpartition(":")
    traffic, tasks = Traffic(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        both = asyncio.gather(copy(reader, back, "sent"), copy(there, writer, "received"))
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await both
        except OSError:
            pass
        finally:
            tasks.discard(task)
            writer.close()
            back.close()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, what: str) -> None:
        while data := await source.read(256 * 1024):
            setattr(traffic, what, getattr(traffic, what) + len(data))
            sink.write(data)
            await sink.drain()
        sink.write_eof()

    server = await asyncio.start_server(serve, host, 0)
    traffic.port = server.sockets[0].getsockname()[1]
    try:
        yield traffic
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _megabytes(process: psutil.Process) -> dict[str, float]:
    """Resident memory of the control process and of its relay workers."""
    workers = [child.memory_info().rss for child in process.children(recursive=True)]
    return {
        "control_mb": round(process.memory_info().rss / 1e6, 1),
        "workers_mb": round(sum(workers) / 1e6, 1),
    }


async def many(plane: ControlPlane, say: Callable[[str], None]) -> dict[str, Any]:
    """Start-up, memory and traffic of a sidecar that follows 10 000 Pods in 20 pools."""
    namespace, each = "many", PODS // POOLS
    async with AsyncExitStack() as owner:
        api = await owner.enter_async_context(Api(plane.admin))
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-")))
        await api.create(objects.namespace(namespace))
        names = [f"pool-{number}" for number in range(POOLS)]
        await create_all(api, [pool(namespace, name) for name in names])
        say(f"creating {PODS} Pods ...")
        pods = [pod(n, namespace, names[n // each]) for n in range(PODS)]
        await create_all(api, pods)
        traffic = await owner.enter_async_context(counted(plane.admin.server))
        through = Kubeconfig(
            f"https://{HOST}:{traffic.port}",
            plane.admin.ca_file, plane.admin.cert_file, plane.admin.key_file,
        )  # fmt: skip
        kubeconfig = through.write(folder / "kubeconfig")
        say("starting the sidecar ...")
        begun = time.perf_counter()
        sidecar = await owner.enter_async_context(
            running_sidecar(folder, kubeconfig, "--namespace", namespace)
        )
        result: dict[str, Any] = {
            "pods": PODS,
            "pools": POOLS,
            "ready_after_s": round(time.perf_counter() - begun, 2),
        }
        for name in (names[0], names[-1]):
            found = await sidecar.pool(f"{namespace}/{name}")
            assert found is not None
            assert len(found["endpoints"]) == each, len(found["endpoints"])
        await asyncio.sleep(3)
        process = psutil.Process(sidecar.process.pid)
        result |= _megabytes(process)
        result["first_read_mb"] = round(traffic.received / 1e6, 2)
        before = traffic.received + traffic.sent
        await asyncio.sleep(IDLE)
        result["idle_bytes_per_s"] = round((traffic.received + traffic.sent - before) / IDLE, 1)
        began, received = process.cpu_times(), traffic.received
        for number in range(CHANGES):
            item = pods[number * 37 % PODS]
            unready = {"status": objects.status(item["status"]["podIP"], ready=False)}
            await api.patch(item, unready, "status")
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        after = process.cpu_times()
        spent = after.user + after.system - began.user - began.system
        result["bytes_per_change"] = round((traffic.received - received) / CHANGES)
        result["control_cpu_ms_per_change"] = round(spent * 1000 / CHANGES, 2)
        result |= {f"{key}_after_churn": value for key, value in _megabytes(process).items()}
        return result
