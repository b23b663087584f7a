"""One API server and one set of model servers for all tests; a namespace and a gateway for each."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from testbed.cluster import objects
from testbed.cluster.api import Api, ApiError, Object
from testbed.cluster.control_plane import ControlPlane, running_control_plane
from testbed.cluster.gateway import (
    MODEL_HOSTS,
    Gateway,
    Models,
    running_gateway,
    running_models,
)
from testbed.cluster.machine import Machine, missing, running_machine
from testbed.cluster.network import ADDRESS
from testbed.cluster.pickers import Picker, running_picker
from testbed.process import Process


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plane() -> AsyncIterator[ControlPlane]:
    async with running_control_plane() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def models() -> AsyncIterator[Models]:
    async with running_models() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def api(plane: ControlPlane) -> AsyncIterator[Api]:
    """The administrator."""
    async with Api(plane.admin) as client:
        yield client


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def machine() -> AsyncIterator[Machine]:
    """A cluster of its own, with a kubelet."""
    if why := missing():
        pytest.skip(f"no kubelet: {why}")
    async with running_machine() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def own_namespace(machine: Machine) -> str:
    """A namespace of `machine` for one test, whose Pods can have their ServiceAccount."""
    name = f"test-{secrets.token_hex(3)}"
    await machine.api.create(objects.namespace(name))
    path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(ApiError):
                await machine.api.call("GET", path)
                return name
            await asyncio.sleep(0.05)


@dataclass
class Site:
    """A namespace with model Pods, where a test sets up pools, pickers and gateways."""

    namespace: str
    api: Api
    models: Models
    kubeconfig: Path
    """The administrator's."""
    folder: Path
    owner: AsyncExitStack
    pods: list[Object]

    def pool(self, name: str = "pool", ports: list[int] | None = None, **more: Any) -> Object:
        """An InferencePool over the model Pods."""
        given = ports or [self.models.ports[0]]
        return objects.inference_pool(name, given, namespace=self.namespace, **more)

    async def picker(
        self, program: str = "lwepp", *, name: str = "a", arguments: tuple[str, ...] = ()
    ) -> Picker:
        """Run a real picker for `pool`, behind an EndpointSlice of its own of Service `picker`."""
        running = running_picker(program, self.kubeconfig, "pool", self.namespace, *arguments)
        picker = await self.owner.enter_async_context(running)
        await self.api.create(self.slice_of(picker, name))
        return picker

    async def late_picker(self, *endpoints: str) -> None:
        """Run a picker, without TLS, that will name these whatever happens to their Pods."""
        process, ready = await Process.python(
            "testbed.picker",
            *("--listen", f"{ADDRESS}:0", "--endpoints", ",".join(endpoints)),
        )
        self.owner.push_async_callback(process.stop, 1)
        await self.api.create(self.slice_of(Picker(process, ready["address"]), "late"))

    def slice_of(self, picker: Picker, name: str, *, ready: bool = True) -> Object:
        """The EndpointSlice of a picker."""
        return objects.endpoint_slice(
            f"picker-{name}", "picker", picker.address, namespace=self.namespace, ready=ready
        )

    async def gateway(self, *pools: str, arguments: tuple[str, ...] = ()) -> Gateway:
        """Run a gateway for pools of this namespace."""
        names = [f"{self.namespace}/{pool}" for pool in pools or ("pool",)]
        arguments = ("--namespace", self.namespace, *arguments)
        running = running_gateway(self.folder, self.kubeconfig, names, *arguments)
        return await self.owner.enter_async_context(running)


@pytest_asyncio.fixture(loop_scope="session")
async def site(
    api: Api, plane: ControlPlane, models: Models, tmp_path: Path
) -> AsyncIterator[Site]:
    namespace = f"test-{secrets.token_hex(3)}"
    kubeconfig = plane.admin.write(tmp_path / "admin.kubeconfig")
    await api.create(objects.namespace(namespace))
    pods = [
        objects.pod(f"model-{number}", host, namespace=namespace)
        for number, host in enumerate(MODEL_HOSTS)
    ]
    for pod in pods:
        await api.create(pod)
    await api.create(objects.service("picker", namespace=namespace))
    async with AsyncExitStack() as owner:
        yield Site(namespace, api, models, kubeconfig, tmp_path, owner, pods)


@pytest.fixture(autouse=True)
def _short_socket_paths(tmp_path: Path) -> None:
    """A Unix socket's path has room for 107 bytes."""
    assert len(str(tmp_path)) < 90, tmp_path
