"""Measures the routes of a Gateway from the API server on: 1 000 HTTPRoutes, one of them changed at a time.

Sidecar, Envoy, picker and model server are processes. Each route has a path of its own, and a pool and a
Service with weights. A change is a new value of a response header. One client sends requests one after the
other, so a time is too long by up to one request.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil

from benchmarks.cluster.edits import BRIEF, Write
from benchmarks.cluster.paced import timed
from benchmarks.cluster.population import address, create_all, pod, pool
from epp_client.envoy.bootstrap import gateway_config
from epp_client.settings import DEFAULT_CONTROLLER
from testbed.cluster import objects
from testbed.cluster.api import Api, Object
from testbed.cluster.control_plane import ControlPlane
from testbed.cluster.gateway import HOST, Sidecar, running_sidecar
from testbed.cluster.network import ADDRESS
from testbed.envoy import running_envoy
from testbed.ports import free_ports
from testbed.process import Process

ROUTES, TARGETS = 1000, 50
"""HTTPRoutes; pools, and Services, that they share."""
NAMESPACE = "routes"
MARK = "x-change"
"""Response header that tells which state of a route has answered."""
PATIENCE = 60.0
NO_STATUS = ("--no-status",)


class Edit(NamedTuple):
    """One change of a route."""

    what: str
    write: Write
    path: str
    mark: str
    pause: tuple[float, float]


def _rules(number: int, mark: str) -> list[Object]:
    target = f"target-{number % TARGETS}"
    to_pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": target}
    adds = {"set": [{"name": MARK, "value": mark}]}
    return [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": f"/route-{number}"}}],
            "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": adds}],
            "backendRefs": [
                {**to_pool, "weight": 70},
                {"name": target, "port": objects.PICKER_PORT, "weight": 30},
            ],
        }
    ]


def _route(number: int) -> Object:
    made = objects.http_route(f"route-{number}", namespace=NAMESPACE, gateway="edge", pool="")
    made["spec"]["rules"] = _rules(number, "0")
    return made


@dataclass
class Client:
    """Sends requests through Envoy."""

    session: aiohttp.ClientSession
    url: str
    marks: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    async def mark(self, path: str) -> str:
        """Which state of the route has answered; the status or the error if none has."""
        try:
            async with self.session.get(f"{self.url}{path}/v1/models") as answer:
                await answer.read()
                # Envoy's own responses have the headers of a route too.
                of_route = answer.status < 500 and MARK in answer.headers
                return answer.headers[MARK] if of_route else str(answer.status)
        except aiohttp.ClientError as error:
            await asyncio.sleep(0.005)
            return repr(error)

    async def until(self, path: str, mark: str) -> float:
        """Send requests until the route answers in this state; returns when, by `time.perf_counter`."""
        found = ""
        try:
            async with asyncio.timeout(PATIENCE):
                while found != mark:
                    found = await self.mark(path)
        except TimeoutError as error:
            raise AssertionError(f"{path} answers {found!r}, not {mark!r}") from error
        return time.perf_counter()

    def edits(self, what: str) -> Callable[[random.Random], Iterator[tuple[Edit, Edit]]]:
        """Two changes of routes by chance."""

        def edit(dice: random.Random) -> Edit:
            number, mark = dice.randrange(ROUTES), str(next(self.marks))
            change = {"spec": {"rules": _rules(number, mark)}}
            return Edit(what, (_route(number), change), f"/route-{number}", mark, BRIEF)

        return lambda dice: iter([(edit(dice), edit(dice))])


async def gateway(
    plane: ControlPlane, say: Callable[[str], None], repetitions: int
) -> dict[str, Any]:
    """Milliseconds from sending a write to the end of the first response that shows its effect, and seconds
    until all routes are served."""
    async with AsyncExitStack() as owner:
        api = await owner.enter_async_context(Api(plane.admin))
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-")))
        kubeconfig = plane.admin.write(folder / "kubeconfig")
        port, admin = free_ports(2)
        edge = await _objects(owner, api, port)
        session = await owner.enter_async_context(aiohttp.ClientSession())
        client = Client(session, f"http://{HOST}:{port}")
        arguments = (
            *(
                "--namespace",
                NAMESPACE,
                "--lease-namespace",
                NAMESPACE,
                "--picker-tls",
                "plaintext",
            ),
            *(
                "--gateway",
                f"{NAMESPACE}/edge",
                "--gateway-address",
                HOST,
                "--gateway-listen",
                HOST,
            ),
            "--no-gateway-access-log",
        )
        bootstrap = gateway_config(
            admin=(HOST, admin),
            ext_proc_sockets=[folder / "ext-proc.sock"],
            ads_socket=folder / "xds.sock",
        )
        result: dict[str, Any] = {"routes": ROUTES}
        async with running_sidecar(folder, kubeconfig, *arguments, *NO_STATUS) as sidecar:
            envoy = await owner.enter_async_context(running_envoy(bootstrap, (HOST, admin)))
            await client.until(f"/route-{ROUTES - 1}", "0")
            result["gateway_created_s"] = await _created(api, client, edge)
            say(f"{ROUTES} routes, {repetitions} changes of one, until a request shows it")
            spent = _cpu(sidecar), _cpu_of(envoy.process.pid)
            what = "one of 1,000 routes"
            result |= await _measured(api, client, what, repetitions)
            after = _cpu(sidecar), _cpu_of(envoy.process.pid)
            for name, began, ended in zip(("control", "envoy"), spent, after, strict=True):
                cost = (ended - began) * 1000 / repetitions
                result[f"{name}_cpu_ms_per_change"] = round(cost, 1)
        say("restarting the sidecar, with statuses ...")
        began = time.perf_counter()
        async with running_sidecar(folder, kubeconfig, *arguments) as sidecar:
            result["ready_after_s"] = round(time.perf_counter() - began, 2)
            # A route that the sidecar before has not known.
            result |= await _measured(api, client, "while all statuses are written", repetitions)
            await _until_all_said(api)
            result |= await _measured(api, client, "with its status", repetitions)
        return result


async def _measured(api: Api, client: Client, what: str, repetitions: int) -> dict[str, Any]:
    return await timed(
        api,
        client.edits(what),
        lambda edit: client.until(edit.path, edit.mark),
        repetitions,
    )


async def _created(api: Api, client: Client, edge: Object) -> float:
    """Seconds from the creation of the Gateway until its last route is served."""
    await api.delete(edge)
    while (await client.mark("/route-0")).isdigit():
        await asyncio.sleep(0.05)
    await asyncio.sleep(2)
    began = time.perf_counter()
    await api.create(edge)
    return round(await client.until(f"/route-{ROUTES - 1}", "0") - began, 3)


async def _until_all_said(api: Api) -> None:
    """Wait until each route has its status."""
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes"
    async with asyncio.timeout(300):
        while True:
            listed = (await api.call("GET", path))["items"]
            if all((item.get("status") or {}).get("parents") for item in listed):
                return
            await asyncio.sleep(1)


async def _objects(owner: AsyncExitStack, api: Api, port: int) -> Object:
    """Start the model server and the picker, and create all objects. Returns the Gateway."""
    process, ready = await Process.python("testbed.model_server", "--listen", "0.0.0.0:0")
    owner.push_async_callback(process.stop, 1)
    served = int(ready["address"].rpartition(":")[2])
    process, ready = await Process.python(
        "testbed.picker", "--listen", f"{ADDRESS}:0", "--endpoints", f"{address(1)}:{served}"
    )
    owner.push_async_callback(process.stop, 1)
    await api.create(objects.namespace(NAMESPACE))
    await api.create(objects.gateway_class("epp-client", DEFAULT_CONTROLLER))
    edge = objects.gateway("edge", namespace=NAMESPACE)
    edge["spec"]["listeners"][0]["port"] = port
    edge["spec"]["listeners"][0]["allowedRoutes"] = {"namespaces": {"from": "Same"}}
    slices = {"picker": ready["address"]}
    slices |= {f"target-{n}": f"{ADDRESS}:{served}" for n in range(TARGETS)}
    pools = [
        pool(NAMESPACE, f"target-{n}", "model", port=served, picker="picker")
        for n in range(TARGETS)
    ]
    await create_all(
        api,
        [
            *(objects.service(name, namespace=NAMESPACE) for name in slices),
            *(objects.endpoint_slice(n, n, at, namespace=NAMESPACE) for n, at in slices.items()),
            pod(1, NAMESPACE, "model"),
            *pools,
            edge,
            *map(_route, range(ROUTES)),
        ],
    )
    return edge


def _cpu(sidecar: Sidecar) -> float:
    return _cpu_of(sidecar.process.pid)


def _cpu_of(pid: int) -> float:
    """Seconds of CPU of a process, without its children."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
