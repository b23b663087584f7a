"""Measures the time from the write of an object to Envoy's acknowledgement, in a pool of 1 000 Pods.

The sidecar's control process is this process, so that no polling is needed.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.cluster.edits import NARROWER, Edit, membership
from benchmarks.cluster.paced import timed
from benchmarks.cluster.population import address, create_all, pod, pool
from epp_client.envoy.bootstrap import envoy_config
from epp_client.pool.inference_pool import PoolName
from epp_client.settings import serve_settings
from epp_client.sidecar import Sidecar, running
from testbed.cluster import objects
from testbed.cluster.api import Api
from testbed.cluster.control_plane import HOST, ControlPlane
from testbed.envoy import running_envoy
from testbed.ports import free_ports

PODS, WIDE = 1_000, 100
"""Number of Pods of the pool, and of those that a narrower selector excludes."""
PORTS = (8000, 8001)


class Acknowledged:
    """Waits for Envoy's acknowledgement of a table with or without an endpoint."""

    def __init__(self, sidecar: Sidecar, pool: str) -> None:
        self._store, self._pool = sidecar.store, pool
        self._moved = asyncio.Event()
        sidecar.store.subscribe(lambda _: self._moved.set())

    async def until(self, key: str, *, member: bool) -> float:
        """When Envoy had the endpoint, or had removed it, by `time.perf_counter`."""
        async with asyncio.timeout(30):
            while not self._said(key, member):
                self._moved.clear()
                await self._moved.wait()
        return time.perf_counter()

    def _said(self, key: str, member: bool) -> bool:
        snapshot = self._store.snapshots.get(self._pool)
        if snapshot is None or (key in snapshot.table.by_key) is not member:
            return False
        return snapshot.acknowledged == snapshot.table.generation


def population(namespace: str) -> list[dict[str, Any]]:
    """The Pods of the pool."""
    return [pod(n, namespace, "model", **(NARROWER if n >= WIDE else {})) for n in range(PODS)]


async def acknowledgements(
    plane: ControlPlane, say: Callable[[str], None], repetitions: int
) -> dict[str, Any]:
    """Milliseconds from sending a write to Envoy's acknowledgement."""
    namespace = "delays"
    async with AsyncExitStack() as owner:
        api = await owner.enter_async_context(Api(plane.admin))
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-")))
        await api.create(objects.namespace(namespace))
        # Without a drain grace, removed endpoints leave at once.
        quick = {"epp-client.dev/drain-grace": "0s"}
        edited = await api.create(pool(namespace, "model", port=PORTS[0], annotations=quick))
        await create_all(api, population(namespace))
        settings = serve_settings(
            {
                "kubernetes": {
                    "kubeconfig": plane.admin.write(folder / "kubeconfig"),
                    "namespaces": (namespace,),
                },
                "socket": folder / "ext-proc.sock",
                "xds_socket": folder / "xds.sock",
                "admin": "127.0.0.1:0",
                "log_level": "error",
            }
        )
        sidecar = await owner.enter_async_context(running(settings))
        port, admin = free_ports(2)
        bootstrap = envoy_config(
            [PoolName(namespace, "model")],
            listener=(HOST, port),
            admin=(HOST, admin),
            ext_proc_sockets=settings.sockets,
            ads_socket=settings.xds_socket,
        )
        await owner.enter_async_context(running_envoy(bootstrap, (HOST, admin)))
        envoy = Acknowledged(sidecar, f"{namespace}/model")
        await envoy.until(f"{address(PODS - 1)}:{PORTS[0]}", member=True)
        say(f"{PODS} Pods, {repetitions} edits of each kind, until Envoy's acknowledgement")

        async def seen(edit: Edit) -> float:
            return await envoy.until(edit.endpoint, member=edit.member)

        return await timed(
            api,
            lambda dice: membership(edited, dice.randrange(WIDE), PORTS),
            seen,
            repetitions,
        )
