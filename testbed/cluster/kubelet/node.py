"""Registers the node, binds Pods to it as there is no scheduler, and runs its Pods."""

import asyncio
import contextlib
from pathlib import Path

import aiohttp

from testbed.cluster.api import Api, ApiError, Object
from testbed.cluster.kubelet.forwarding import PORT
from testbed.cluster.kubelet.life import Node, PodLife, lived
from testbed.cluster.kubelet.sandbox import NODE, Addresses
from testbed.cluster.watch import Changed, Gone, Listed, uid, watch

NAME = "machine"


class Kubelet:
    """Runs all Pods of the cluster."""

    def __init__(self, api: Api, folder: Path) -> None:
        host, _, port = api.identity.server.removeprefix("https://").rpartition(":")
        environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        self._api = api
        self._node = Node(api, Addresses(), folder, environment)
        self._lives: dict[str, tuple[PodLife, asyncio.Task[None]]] = {}
        self._bindings: set[asyncio.Task[None]] = set()

    async def register(self) -> None:
        """Make the Node object."""
        size = {"cpu": "64", "memory": "64Gi", "pods": "240"}
        node: Object = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NAME, "labels": {"kubernetes.io/hostname": NAME}},
            "spec": {},
            "status": {
                "capacity": size,
                "allocatable": size,
                "addresses": [{"type": "InternalIP", "address": NODE}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        }
        with contextlib.suppress(ApiError):
            await self._api.create(node)
        # Admission taints a new node as not ready; the controller that would take that away does not run.
        await self._api.patch(node, {"spec": {"taints": None}})

    async def run(self) -> None:
        """Run Pods until it is cancelled. Then they end at once."""
        try:
            async for event in watch(self._api, "/api/v1/pods"):
                match event:
                    case Listed(items):
                        for gone in self._lives.keys() - {uid(item) for item in items}:
                            self._end(gone)
                        for item in items:
                            self._seen(item)
                    case Changed(item):
                        self._seen(item)
                    case Gone(item):
                        self._end(uid(item))
        finally:
            tasks = [task for _, task in self._lives.values()]
            for task in (*tasks, *self._bindings):
                task.cancel()
            await asyncio.gather(*tasks, *self._bindings, return_exceptions=True)

    def _seen(self, pod: Object) -> None:
        metadata, node = pod["metadata"], pod["spec"].get("nodeName")
        deleted = "deletionTimestamp" in metadata
        if not node and not deleted:
            task = asyncio.create_task(self._bind(metadata))
            self._bindings.add(task)
            task.add_done_callback(self._bindings.discard)
        if node != NAME:
            return
        known = self._lives.get(uid(pod))
        if known is None:
            life = PodLife(pod, self._node)
            if deleted:
                life.terminate(0)
            self._lives[uid(pod)] = known = (life, asyncio.create_task(lived(life)))
        if deleted:
            known[0].terminate(metadata.get("deletionGracePeriodSeconds", 0))

    def _end(self, gone: str) -> None:
        """A Pod is not there any more: it was deleted by force, or it has ended."""
        life = self._lives.pop(gone, None)
        if life is not None:
            life[1].cancel()

    async def _bind(self, metadata: Object) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
        name = {"name": metadata["name"]}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": name, "target": target}
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding"
        # It may be bound or gone by now.
        with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError):
            await self._api.call("POST", path, body)
