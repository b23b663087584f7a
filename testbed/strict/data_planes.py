"""This project's data planes as processes beside a cluster: for each Gateway of a class a sidecar, which
may be a mutant, and the real Envoy.

It takes the place of `epp-client controller`, so that a mutant is served within seconds.
"""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from epp_client.envoy.bootstrap import gateway_config
from testbed.cluster.api import Api, Object
from testbed.cluster.watch import Changed, Gone, Listed, watch
from testbed.envoy import running_envoy
from testbed.ports import free_ports
from testbed.process import Process
from testbed.strict.mutants import NONE
from testbed.strict.target import class_object

_GATEWAYS = "/apis/gateway.networking.k8s.io/v1/gateways"
CONTROLLER = "epp-client.dev/strict"
"""The controllerName of the GatewayClass: an installed controller leaves it alone."""
_STOP = 8.0
"""Seconds for a sidecar to end. It gives back its Lease, so that the next one writes statuses at once."""


@dataclass
class _Running:
    task: "asyncio.Task[None]"
    stop: asyncio.Event
    ready: asyncio.Event
    sidecar: Process | None = None


@dataclass
class DataPlanes:
    """Follows the Gateways of a class, and serves each at one address."""

    api: Api
    kubeconfig: Path
    gateway_class: str
    address: str
    """Where Envoy's listeners are reached."""
    mutants: dict[str, str] = field(default_factory=dict)
    """The mutant by the Gateway's name; others are not mutated."""
    _running: dict[tuple[str, str], _Running] = field(default_factory=dict)
    _gone: set[tuple[str, str]] = field(default_factory=set)
    """Deleted Gateways that are still served."""
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A sidecar that ends changes its Gateway's status, which must not start another one."""

    async def follow(self) -> None:
        """Follow Gateways, for ever."""
        async for event in watch(self.api, _GATEWAYS):
            match event:
                case Listed(items):
                    for item in items:
                        await self._start(item)
                case Changed(item):
                    await self._start(item)
                case Gone(item):
                    # It is not stopped here: a sidecar itself has to notice that its Gateway is gone.
                    self._gone.add(_place(item))

    async def restart(self, namespace: str, name: str, mutant: str) -> None:
        """Serve a Gateway by a mutant from now on, or again by what is not mutated (NONE).

        Raises:
            ProcessFailed: it did not become ready; the text has the end of its log.
        """
        async with self._changing:
            self.mutants[name] = mutant
            await self._end((namespace, name))
            running = self._serve((namespace, name))
        ready = asyncio.create_task(running.ready.wait())
        await asyncio.wait({ready, running.task}, return_when=asyncio.FIRST_COMPLETED)
        if running.task.done():
            ready.cancel()
            await running.task

    def tail(self, namespace: str, name: str) -> str:
        """The end of the sidecar's log."""
        running = self._running.get((namespace, name))
        return running.sidecar.tail if running and running.sidecar else ""

    async def stop(self) -> None:
        """End all of them."""
        tasks = [running.task for running in self._running.values()]
        for running in self._running.values():
            running.stop.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, item: Object) -> None:
        async with self._changing:
            await self._started(item)

    async def _started(self, item: Object) -> None:
        place = _place(item)
        if place in self._gone:
            # There is a new Gateway of the name.
            self._gone.remove(place)
            await self._end(place)
        ours = item["spec"]["gatewayClassName"] == self.gateway_class
        if ours and place not in self._running and "deletionTimestamp" not in item["metadata"]:
            self._serve(place)

    async def _end(self, place: tuple[str, str]) -> None:
        old = self._running.pop(place)
        old.stop.set()
        await old.task

    def _serve(self, place: tuple[str, str]) -> _Running:
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(self._data_plane(place, stop, ready))
        running = self._running[place] = _Running(task, stop, ready)
        return running

    async def _data_plane(
        self, place: tuple[str, str], stop: asyncio.Event, ready: asyncio.Event
    ) -> None:
        namespace, name = place
        async with AsyncExitStack() as owner:
            folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="strict-")))
            (admin,) = free_ports(1)
            bootstrap = gateway_config(
                admin=("127.0.0.1", admin),
                ext_proc_sockets=[folder / "ext-proc.sock"],
                ads_socket=folder / "xds.sock",
            )
            sidecar = await Process.start(
                sys.executable, "-m", "testbed.strict.mutant", self.mutants.get(name, NONE),
                "serve", "--kubernetes", "--kubeconfig", str(self.kubeconfig), "--workers", "0",
                "--gateway", f"{namespace}/{name}", "--gateway-address", self.address,
                "--controller-name", CONTROLLER, "--admin", "127.0.0.1:0",
                "--namespace", namespace, "--lease-namespace", namespace,
                "--socket", str(folder / "ext-proc.sock"), "--xds-socket", str(folder / "xds.sock"),
            )  # fmt: skip
            if running := self._running.get(place):
                running.sidecar = sidecar
            owner.push_async_callback(sidecar.stop, _STOP)
            await owner.enter_async_context(running_envoy(bootstrap, ("127.0.0.1", admin)))
            # Its Envoy is ready once it has the first listeners.
            ready.set()
            ended = asyncio.create_task(sidecar.exited())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                stopped.cancel()
                raise sidecar.failed("ended")
            ended.cancel()


def _place(item: Object) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


@asynccontextmanager
async def serving(
    api: Api, kubeconfig: Path, gateway_class: str, address: str
) -> AsyncIterator[DataPlanes]:
    """Make a GatewayClass, and serve its Gateways until the end of the block."""
    await _make_class(api, gateway_class)
    planes = DataPlanes(api, kubeconfig, gateway_class, address)
    following = asyncio.create_task(planes.follow())
    try:
        yield planes
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await planes.stop()
        await api.delete(class_object(gateway_class))


async def _make_class(api: Api, name: str) -> None:
    """Make it, and write its status, as no controller does."""
    made = await api.create({**class_object(name), "spec": {"controllerName": CONTROLLER}})
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "observedGeneration": made["metadata"]["generation"],
        "lastTransitionTime": made["metadata"]["creationTimestamp"],
    }
    await api.patch(made, {"status": {"conditions": [condition]}}, "status")
