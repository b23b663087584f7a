"""A Gateway that `epp-client controller` runs, while its routes change and the cluster's parts die.

Chaos on the one-machine cluster: no request is lost in breach of the promise.
"""

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from chaos import subjects
from chaos.account import Window, account
from chaos.load import LAST
from chaos.promise import NOTHING, PROMISES
from chaos.route_faults import CHANGES
from chaos.routing import Routing
from chaos.run import Lines
from chaos.subjects import Port
from chaos.workload import POOLS
from testbed.cluster import objects
from testbed.cluster.api import ApiError, Object
from testbed.cluster.machine import Machine
from testbed.process import Process
from tests.cluster.kustomize import CONFIG, render
from tests.cluster.pods import until, until_gone

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("EPP_CLIENT_TEST_FAULTS_SECONDS", "25"))
"""Seconds of faults, at least one round of all."""
RATE = 25.0
NAMESPACE = "default"
SYSTEM = "epp-client-system"
GRACE = 12.0
"""Seconds that a model Pod serves on after it was told to end."""
LONGEST = 8.0
"""Seconds of the longest response: within the grace of a Pod."""
AWAY = 2.0
"""Seconds without an API server, or without a controller."""
PORTS = {Port.PLAIN: 80, Port.TLS: 443, Port.EXTRA: 8081}
ROUTE_CHANGES = (
    "route: weights", "route: header match", "route: hostnames", "route: deleted and created",
    "certificate renewed", "listener removed and added", "routes churn",
)  # fmt: skip
"""Of Services the cluster itself writes the endpoints."""


FAULTS = {
    "controller killed": NOTHING,
    "API server killed, in the cluster": NOTHING,
    "model Pods rolled out": NOTHING,
}


def _deployment(name: str, namespace: str = NAMESPACE) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}


def _available(replicas: int) -> Callable[[Object], bool]:
    def enough(item: Object) -> bool:
        status = item.get("status") or {}
        return (
            status.get("observedGeneration") == item["metadata"]["generation"]
            and status.get("availableReplicas") == status.get("replicas") == replicas
            and status.get("updatedReplicas") == replicas
        )

    return enough


def _controller() -> list[Object]:
    """The manifests of the controller, with one Pod for each Gateway: a probe has to see all Envoys."""
    items = render(CONFIG / "controller")
    [deployment] = [item for item in items if item["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["args"].append("--replicas=1")
    return items


def _models_and_pools() -> list[Object]:
    """The example in the namespace of the run, with Pods that serve on while they leave the pools."""
    items = [i for i in render(CONFIG / "example", NAMESPACE) if i["kind"] != "Namespace"]
    for item in items:
        if item["kind"] != "Deployment":
            continue
        [container] = item["spec"]["template"]["spec"]["containers"]
        if item["metadata"]["name"] == "llama":
            container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", f"{GRACE:g}"]}}}
        else:
            container["args"] = [
                a.replace("=inference", f"={NAMESPACE}") for a in container["args"]
            ]
    [pool] = [item for item in items if item["kind"] == "InferencePool"]
    for name in POOLS:
        mode = "FailClose" if name == "close" else "FailOpen"
        reference = {**pool["spec"]["endpointPickerRef"], "failureMode": mode}
        metadata = {"name": name, "namespace": NAMESPACE}
        spec = {**pool["spec"], "endpointPickerRef": reference}
        items.append({**pool, "metadata": metadata, "spec": spec})
    return items


class Cluster:
    """The cluster with what runs on it, and its faults."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        self.routing = Routing(folder, PORTS, self._write, "epp-client")
        # Envoy's default.
        self.routing.drain_time = 600.0
        self.windows: list[Window] = []
        self._known: dict[tuple[str, ...], Object] = {}

    async def _write(self, items: list[Object]) -> None:
        """As `ApiServer.write_routing`, on the real API server."""
        api, wanted = self.machine.api, {subjects.key(item): item for item in items}
        while True:
            try:
                for key in self._known.keys() - wanted.keys():
                    with contextlib.suppress(ApiError):
                        await api.delete(self._known[key])
                    del self._known[key]
                for key, item in wanted.items():
                    if self._known.get(key) != item:
                        await api.apply([item])
                        self._known[key] = item
                return
            except (OSError, aiohttp.ClientError, TimeoutError, ApiError) as error:
                if isinstance(error, ApiError) and error.status not in (401, 403, 429, 500, 503):
                    raise
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Two replicas of the controller, pools with a picker, and the Gateway with its first routes."""
        api = self.machine.api
        installed = [*_controller(), *_models_and_pools()]
        await api.apply(installed)
        try:
            for name, namespace, replicas in (
                ("epp-client-controller", SYSTEM, 2),
                ("llama", NAMESPACE, 3),
                ("llama-epp", NAMESPACE, 1),
            ):
                await until(api, _deployment(name, namespace), _available(replicas))
            await self.routing.open()
            await self.routing.write_first([subjects.gateway(PORTS, of_class="epp-client")])
            gateway = objects.gateway(subjects.GATEWAY, namespace=NAMESPACE)
            found = await until(api, gateway, lambda g: (g.get("status") or {}).get("addresses"))
            self.routing.at(found["status"]["addresses"][0]["value"])
            await self.routing.settle(*self.routing.subjects)
            yield
        finally:
            await self.routing.close()
            await self._write([])
            for item in reversed(installed):
                with contextlib.suppress(ApiError):
                    await api.delete(item)
            await until_gone(api, objects.namespace(SYSTEM))

    async def fault(self, name: str, hurt: Callable[[], Awaitable[None]]) -> None:
        """Inject one fault, and note its window."""
        window = Window(name, "cluster", time.monotonic())
        self.windows.append(window)
        await hurt()
        window.ended = time.monotonic()

    async def controller_killed(self) -> None:
        """SIGKILL for both replicas, and new ones."""
        path = f"/api/v1/namespaces/{SYSTEM}/pods"
        for pod in (await self.machine.api.call("GET", path))["items"]:
            await self.machine.api.delete({**pod, "apiVersion": "v1", "kind": "Pod"})
        await asyncio.sleep(AWAY)
        await until(self.machine.api, _deployment("epp-client-controller", SYSTEM), _available(2))

    async def api_server_killed(self) -> None:
        """SIGKILL, a pause, and a restart."""
        await self.machine.plane.kill()
        await asyncio.sleep(AWAY)
        await self.machine.plane.start()
        await asyncio.sleep(AWAY)

    async def models_rolled_out(self) -> None:
        """All model Pods are replaced; the old ones serve until they have gone."""
        stamp = {"metadata": {"annotations": {"at": str(time.monotonic())}}}
        deployment = _deployment("llama")
        await self.machine.api.patch(deployment, {"spec": {"template": stamp}})
        await until(self.machine.api, deployment, _available(3))
        await asyncio.sleep(GRACE + 1)

    async def change_routes(self, dice: random.Random, over: asyncio.Event) -> None:
        """Change routes until it is over, and each of them once at least."""
        rest: list[str] = []
        changed = set[str]()
        while not over.is_set() or changed < {*ROUTE_CHANGES}:
            rest = rest or dice.sample(ROUTE_CHANGES, len(ROUTE_CHANGES))
            name = rest.pop()
            changed.add(name)

            async def change(name: str = name) -> None:
                await CHANGES[name](self.routing, dice)

            await self.fault(name, change)
            await asyncio.sleep(dice.uniform(0.0, 0.5))


async def test_no_request_is_lost_while_everything_around_the_routes_dies(
    machine: Machine, tmp_path: Path
) -> None:
    dice = random.Random(1)
    cluster = Cluster(machine, tmp_path)
    out = tmp_path / "requests.jsonl"
    async with cluster.running():
        out.touch()
        load = await Process.start(
            *(sys.executable, "-m", "chaos.load", "unused", str(out), "--seed", "1"),
            *(
                "--rate",
                str(RATE),
                "--faulty-share",
                "0",
                "--longest",
                str(LONGEST),
                *cluster.routing.load_options,
            ),
        )
        over = asyncio.Event()
        changing = asyncio.create_task(cluster.change_routes(dice, over))
        began = time.monotonic()
        try:
            while not over.is_set():
                await cluster.fault("controller killed", cluster.controller_killed)
                name = "API server killed, in the cluster"
                await cluster.fault(name, cluster.api_server_killed)
                await cluster.fault("model Pods rolled out", cluster.models_rolled_out)
                if time.monotonic() > began + SECONDS:
                    over.set()
            await changing
        finally:
            changing.cancel()
            code = await load.stop(LAST)
    assert code == 0, load.tail
    lines = Lines(out)
    lines.read()
    lines.close()
    why_wrong = cluster.routing.timeline.why_wrong
    found = account(lines.lines, cluster.windows, {**PROMISES, **FAULTS}, why_wrong)
    for row in (*found.faults.values(), found.total):
        refused = dict(row.refused)
        print(
            f"{row.fault}: {row.windows} times, {row.sent} sent, {row.answered} answered, {refused},"
        )
        print(f"    {row.lost} lost as stated, {row.breaches} in breach")
    said = [f"{b.why}: {b.line} {[w.fault for w in b.windows]}" for b in found.breaches]
    assert said == []
    assert found.total.answered > RATE * SECONDS / 2
    assert {window.fault for window in cluster.windows} == {*FAULTS, *ROUTE_CHANGES}
