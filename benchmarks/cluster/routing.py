"""Measures the time from the write of an object to the first request that shows its effect, with 1 000
Pods.

Sidecar, Envoy, pickers and two model servers are processes. The model servers listen on every address, and
so on those of all Pods. One client sends requests one after the other, so a time is too long by up to one
request.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from benchmarks.cluster.acknowledgements import PODS, WIDE, population
from benchmarks.cluster.edits import BRIEF, LONG, Edit, Write, membership
from benchmarks.cluster.paced import timed
from benchmarks.cluster.population import address, create_all, pool
from epp_client.errors import Reason
from testbed.cluster import objects
from testbed.cluster.api import Api, Object
from testbed.cluster.control_plane import ControlPlane
from testbed.cluster.gateway import running_gateway
from testbed.cluster.network import ADDRESS
from testbed.ports import free_ports
from testbed.process import Process
from testbed.steps import SERVED_ECHO, STEERING

AT_ONCE = {
    "epp-client.dev/tls": "plaintext",
    "epp-client.dev/drain-grace": "0s",
    "epp-client.dev/endpoint-wait": "0s",
}
"""Annotations without waits and graces: each pick is judged by the current table."""
PATIENCE = 30.0


class Answer(NamedTuple):
    """The response to one request."""

    status: int
    refused: str
    """The reason in `x-inference-error`."""
    version: str
    """HTTP version between Envoy and the model server."""
    picked: str
    """The served endpoint, as the picker reports it."""


Seen = Callable[[Answer], bool]


class Timed(NamedTuple):
    """One write, and the request that shows its effect."""

    what: str
    write: Write
    pool: str
    steer: str
    """The endpoint that the picker should choose; empty: any."""
    seen: Seen
    pause: tuple[float, float]


class Client:
    """Sends requests through Envoy."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def ask(self, pool: str, steer: str = "") -> Answer:
        """Send one request."""
        headers = {STEERING: steer} if steer else {}
        async with self._session.get(f"{self._url}/{pool}/v1/models", headers=headers) as answer:
            await answer.read()
            said = answer.headers
            return Answer(
                answer.status,
                said.get("x-inference-error", ""),
                said.get("x-http-version", ""),
                said.get(SERVED_ECHO, ""),
            )

    async def until(self, timed: Timed) -> float:
        """Send requests until one shows the effect; returns when, by `time.perf_counter`."""
        answer: Answer | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                while answer is None or not timed.seen(answer):
                    answer = await self.ask(timed.pool, timed.steer)
        except TimeoutError as error:
            raise AssertionError(f"{timed.what} is not seen in {answer}") from error
        return time.perf_counter()


def _served(answer: Answer) -> bool:
    return answer.status == 200


def _outside(answer: Answer) -> bool:
    return answer.refused == Reason.PICK_OUTSIDE_POOL


class Site(NamedTuple):
    """The objects and addresses that edits change."""

    namespace: str
    model: Object
    """The pool whose picker chooses the endpoint that a request names."""
    alone: Object
    """The pool whose picker does not listen."""
    slice: Object
    """EndpointSlice of the picker of the pool `rollout`."""
    ports: tuple[int, int]
    """Ports of the model servers."""
    pickers: tuple[tuple[str, str], tuple[str, str]]
    """Addresses of the two pickers of the pool `rollout`, and the one endpoint that each chooses."""


def _edits(site: Site, number: int) -> Iterator[tuple[Timed, Timed]]:
    """Edits of every kind, forth and back."""
    where = {name: f"{site.namespace}/{name}" for name in ("model", "alone", "rollout")}
    for out, again in membership(site.model, number, site.ports):
        yield _member(out, where["model"]), _member(again, where["model"])
    h2c, http = ({"spec": {"appProtocol": name}} for name in ("kubernetes.io/h2c", "http"))
    there, back = (
        Timed(
            "appProtocol",
            (site.model, change),
            where["model"],
            f"{address(number)}:{site.ports[0]}",
            lambda answer, version=version: answer.version == version,  # type: ignore[misc]
            LONG,
        )
        for change, version in ((h2c, "2"), (http, "1.1"))
    )
    yield there, back
    opened, closed = (
        {"spec": {"endpointPickerRef": {"failureMode": mode}}} for mode in ("FailOpen", "FailClose")
    )
    yield (
        Timed("failureMode", (site.alone, opened), where["alone"], "", _served, BRIEF),
        Timed(
            "failureMode", (site.alone, closed), where["alone"], "",
            lambda answer: answer.refused == Reason.PICKER_UNREACHABLE, BRIEF,
        ),
    )  # fmt: skip
    old, new = (
        Timed(
            "picker rollout",
            (site.slice, {"ports": objects.endpoint_slice("", "", at, namespace="")["ports"]}),
            where["rollout"],
            "",
            lambda answer, choice=choice: answer.picked == choice,  # type: ignore[misc]
            BRIEF,
        )
        for at, choice in site.pickers
    )
    yield new, old


def _member(edit: Edit, pool: str) -> Timed:
    seen = _served if edit.member else _outside
    return Timed(edit.what, edit.write, pool, edit.endpoint, seen, edit.pause)


async def routing(
    plane: ControlPlane, say: Callable[[str], None], repetitions: int
) -> dict[str, Any]:
    """Milliseconds from sending a write to the end of the first response that shows its effect."""
    async with AsyncExitStack() as owner:
        api = await owner.enter_async_context(Api(plane.admin))
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-")))
        site = await _site(owner, api)
        names = [f"{site.namespace}/{name}" for name in ("model", "alone", "rollout")]
        kubeconfig = plane.admin.write(folder / "kubeconfig")
        gateway = await owner.enter_async_context(
            running_gateway(folder, kubeconfig, names, "--namespace", site.namespace)
        )
        session = await owner.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        )
        client = Client(session, gateway.url)
        # Wait for the state before the edits, which the second edit of each pair restores.
        for pair in _edits(site, 0):
            await client.until(pair[1])
        say(f"{PODS} Pods, {repetitions} edits of each kind, until a request shows it")
        return await timed(
            api, lambda dice: _edits(site, dice.randrange(WIDE)), client.until, repetitions
        )


async def _site(owner: AsyncExitStack, api: Api) -> Site:
    """Start model servers and pickers, and create their objects."""
    namespace = "routing"
    ports: list[int] = []
    for _ in range(2):
        process, ready = await Process.python("testbed.model_server", "--listen", "0.0.0.0:0")
        owner.push_async_callback(process.stop, 1)
        ports.append(int(ready["address"].rpartition(":")[2]))

    async def picker(*endpoints: str) -> str:
        process, ready = await Process.python(
            "testbed.picker",
            *("--listen", f"{ADDRESS}:0", "--endpoints", ",".join(endpoints)),
        )
        owner.push_async_callback(process.stop, 1)
        return str(ready["address"])

    steerable = [f"{address(number)}:{port}" for number in range(WIDE) for port in ports]
    choices = [f"{address(number)}:{ports[0]}" for number in (PODS - 1, PODS - 2)]
    old, new = [(await picker(choice), choice) for choice in choices]
    (nobody,) = free_ports(1)
    listening = {
        "model": await picker(*steerable), "alone": f"{ADDRESS}:{nobody}", "rollout": old[0]
    }  # fmt: skip
    await api.create(objects.namespace(namespace))
    made: dict[str, Object] = {}
    for name, at in listening.items():
        await api.create(objects.service(name, namespace=namespace))
        made[f"slice {name}"] = await api.create(
            objects.endpoint_slice(name, name, at, namespace=namespace)
        )
        made[name] = await api.create(
            pool(namespace, name, "model", port=ports[0], picker=name, annotations=AT_ONCE)
        )
    await create_all(api, population(namespace))
    return Site(
        namespace,
        made["model"],
        made["alone"],
        made["slice rollout"],
        (ports[0], ports[1]),
        (old, new),
    )
