"""The life of one Pod: its network, its volumes, its containers in their order, its end."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from testbed.cluster.api import MERGE, Api, ApiError, Object
from testbed.cluster.kubelet.containers import ContainerLife, Place, status_of
from testbed.cluster.kubelet.forwarding import forwarded
from testbed.cluster.kubelet.images import NoImage, image
from testbed.cluster.kubelet.sandbox import NODE, Addresses, NetworkFailed, running_sandbox
from testbed.cluster.kubelet.spec import BadSpec, identity, variables
from testbed.cluster.kubelet.status import Conditions, ContainerStatus, Waiting, now, pod_status
from testbed.cluster.kubelet.volumes import Contents, keep_fresh, until_there

_LEAST_GRACE = 2.0
"""Seconds for a sidecar, even if the main containers took the whole grace: as a kubelet does."""
_RETRY = 1.0
"""Seconds before an unknown image or a bad spec is tried again."""


@dataclass(frozen=True)
class Node:
    """What all Pods share."""

    api: Api
    addresses: Addresses
    folder: Path
    """Of logs, and of the Pods' volumes."""
    environment: Mapping[str, str]
    """What each container is told of the cluster."""


@dataclass
class PodLife:
    """One Pod."""

    pod: Object
    node: Node
    _statuses: dict[str, ContainerStatus] = field(default_factory=dict)
    _lives: dict[str, ContainerLife] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _grace: asyncio.Future[float] = field(init=False)
    _dirty: asyncio.Event = field(default_factory=asyncio.Event)
    _conditions: Conditions = field(default_factory=Conditions)
    _address: str | None = None
    _started: str = field(default_factory=now)

    def __post_init__(self) -> None:
        self._grace = asyncio.get_running_loop().create_future()
        spec = self.pod["spec"]
        for kind, init in (("initContainers", True), ("containers", False)):
            for container in spec.get(kind) or ():
                self._statuses[container["name"]] = status_of(container, init=init)

    def terminate(self, grace: float) -> None:
        """End it in `grace` seconds at most."""
        if not self._grace.done():
            self._grace.set_result(grace)

    async def live(self) -> None:
        """Run it until it is deleted. Cancelled, it is ended at once."""
        reporting = asyncio.create_task(self._report_changes())
        async with AsyncExitStack() as owner:
            try:
                work = asyncio.create_task(self._work(owner))
                either: list[asyncio.Future[Any]] = [work, self._grace]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    # It never ends by itself, so this is an error.
                    work.result()
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                await self._shut(self._grace.result())
            finally:
                reporting.cancel()
                work.cancel()
                await asyncio.gather(reporting, work, return_exceptions=True)
                await asyncio.gather(*(life.kill() for life in self._lives.values()))
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._finished()

    # --- start

    async def _work(self, owner: AsyncExitStack) -> None:
        address = owner.enter_context(self.node.addresses.leased())
        sandbox = await owner.enter_async_context(running_sandbox(address))
        metadata = self.pod["metadata"]
        owner.enter_context(
            forwarded(self.node.folder, metadata["namespace"], metadata["name"], sandbox.network)
        )
        self._address = address
        self.pod = {**self.pod, "status": {"podIP": address, "hostIP": NODE}}
        self._dirty.set()
        contents = Contents(self.node.api)
        folder = self.node.folder / "volumes" / metadata["uid"]
        folders = await until_there(owner, self.pod, contents, folder)
        fresh = asyncio.create_task(keep_fresh(self.pod, contents, folders))
        owner.callback(fresh.cancel)
        spec = self.pod["spec"]
        for container in spec.get("initContainers") or ():
            name = container["name"]
            await self._start(container, contents, sandbox.network, folders, init=True)
            if container.get("restartPolicy") == "Always":
                await self._lives[name].up.wait()
            else:
                await asyncio.wait({self._tasks[name]})
                if not self._statuses[name].done:
                    # It failed for good: the Pod is Failed.
                    self._dirty.set()
                    await asyncio.Event().wait()
        for container in spec["containers"]:
            await self._start(container, contents, sandbox.network, folders, init=False)
        await asyncio.wait({self._tasks[c["name"]] for c in spec["containers"]})
        # All have ended for good: the sidecars are not needed any more.
        await self._end_sidecars(asyncio.get_running_loop().time() + self._own_grace)
        self._dirty.set()
        await asyncio.Event().wait()

    async def _start(
        self,
        container: Object,
        contents: Contents,
        network: Path,
        folders: Mapping[str, Path],
        *,
        init: bool,
    ) -> None:
        """Make a container, as soon as its image and all that its variables take are there."""
        name, metadata = container["name"], self.pod["metadata"]
        log = self.node.folder / "logs" / f"{metadata['namespace']}_{metadata['name']}_{name}.log"
        log.parent.mkdir(exist_ok=True)
        status = self._statuses[name]
        while True:
            try:
                of_image = image(container["image"])
                self._lives[name] = ContainerLife(
                    container, status, of_image,
                    identity(container, self.pod, of_image.user),
                    {**self.node.environment, "HOSTNAME": metadata["name"],
                     **variables(container, self.pod, await self._data(container, contents))},
                    Place(network, self._address or "", folders, log),
                    restart=self._restarts(container, init=init),
                    grace=self._own_grace,
                    changed=self._dirty.set,
                )  # fmt: skip
                break
            except NoImage as error:
                status.state = Waiting("ErrImagePull", str(error))
            except BadSpec as error:
                status.state = Waiting("CreateContainerConfigError", str(error))
            self._dirty.set()
            await asyncio.sleep(_RETRY)
        self._tasks[name] = asyncio.create_task(self._lives[name].live())

    async def _data(
        self, container: Object, contents: Contents
    ) -> Callable[[str, str], Mapping[str, str] | None]:
        """All ConfigMaps and Secrets that a container's variables take."""
        names = set()
        for source in container.get("envFrom") or ():
            for word, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if word in source:
                    names.add((kind, source[word]["name"]))
        for item in container.get("env") or ():
            for word, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if word in (item.get("valueFrom") or {}):
                    names.add((kind, item["valueFrom"][word]["name"]))
        found: dict[tuple[str, str], Mapping[str, str] | None] = {}
        for kind, name in names:
            data = await contents.data(kind, self.pod["metadata"]["namespace"], name)
            found[kind, name] = None if data is None else {k: v.decode() for k, v in data.items()}
        return lambda kind, name: found[kind, name]

    def _restarts(self, container: Object, *, init: bool) -> Callable[[int], bool]:
        policy = self.pod["spec"].get("restartPolicy", "Always")
        if container.get("restartPolicy") == "Always":
            return lambda code: True
        if init:
            return lambda code: code != 0 and policy != "Never"
        return lambda code: policy == "Always" or (policy == "OnFailure" and code != 0)

    # --- end

    @property
    def _own_grace(self) -> float:
        return float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

    async def _shut(self, grace: float) -> None:
        """End the main containers together, then the sidecars in reverse, each after its preStop hook."""
        deadline = asyncio.get_running_loop().time() + grace
        main = [c["name"] for c in self.pod["spec"]["containers"]]
        await asyncio.gather(*(self._lives[n].end(deadline) for n in main if n in self._lives))
        await self._end_sidecars(deadline)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _end_sidecars(self, deadline: float) -> None:
        for container in reversed(self.pod["spec"].get("initContainers") or ()):
            if container["name"] in self._lives:
                least = asyncio.get_running_loop().time() + _LEAST_GRACE
                await self._lives[container["name"]].end(max(deadline, least))

    async def _finished(self) -> None:
        """Say how it ended, and that it has."""
        await self._report()
        metadata = self.pod["metadata"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError):
            await self.node.api.call("DELETE", self._path, body)

    # --- status

    @property
    def _path(self) -> str:
        metadata = self.pod["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    async def _report_changes(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not await self._report():
                self._dirty.set()
                await asyncio.sleep(_RETRY)

    async def _report(self) -> bool:
        """Write the status; whether the API server has heard it."""
        status = pod_status(
            list(self._statuses.values()), self._conditions,
            address=self._address,
            started=self._started,
            restarts=self.pod["spec"].get("restartPolicy", "Always"),
        )  # fmt: skip
        body = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": status}
        try:
            await self.node.api.call("PATCH", f"{self._path}/status", body, content_type=MERGE)
        except ApiError as error:
            if error.status in (404, 409):
                # It is gone, or another one has its name.
                return True
            print(f"kubelet: status of {self._path}: {error}", flush=True)
            return False
        except (aiohttp.ClientError, TimeoutError):
            return False
        return True


async def lived(life: PodLife) -> None:
    """`life.live()`, with its errors printed: one Pod must not end the others."""
    metadata = life.pod["metadata"]
    try:
        await life.live()
    except* (NetworkFailed, OSError, ApiError) as errors:
        for error in errors.exceptions:
            print(f"kubelet: {metadata['namespace']}/{metadata['name']}: {error}", flush=True)
