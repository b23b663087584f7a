"""A namespace of the cluster with Pods, pickers and Gateways, where checks make pools and routes and ask.

A check says what it expects as outcomes: `200 alpha`, an answer by a Pod of that Deployment, or `503`.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple

import aiohttp

from testbed.cluster.api import ApiError, Object
from testbed.strict import workloads
from testbed.strict.client import Answer, ask, together
from testbed.strict.target import Target

ROUND = 24
"""Requests that have to have the expected outcomes before a route counts as served."""
SURE = 1.5
"""Seconds for which a text has to be hopeless without a pause, as another state may just not be over."""
_POLL = 0.05
_PODS = {"apiVersion": "v1", "kind": "Pod"}


class Failed(Exception):
    """The gateway does not do what a check asks; the text tells what it did."""


class PodFacts(NamedTuple):
    """A ready Pod."""

    name: str
    ip: str


Ask = Callable[[], Awaitable[Answer]]


@dataclass
class Site:
    """Where checks run."""

    target: Target
    namespace: str
    session: aiohttp.ClientSession
    controller: str
    """The controllerName of the GatewayClass."""
    addresses: dict[str, str] = field(default_factory=dict)
    """The address of each Gateway."""
    hopeless: str = ""
    """Part of a text. What is missing according to such a text is waited for only shortly: a mutant never
    does it. Empty for a gateway that is tested."""
    _names: dict[str, str] = field(default_factory=dict)
    """Names of Pods by address."""

    # --- objects ---

    def pool(
        self, name: str, app: str, picker: str = "", mode: str = "FailClose", **more: Any
    ) -> Object:
        """An InferencePool of the Pods of a Deployment, by default with lwepp as its picker."""
        port = workloads.MODEL_PORT if app in ("gamma", "ragged") else workloads.ECHO_PORT
        select = {"pool": app} if app == "ragged" else {"app": app}
        return workloads.pool(
            name,
            self.namespace,
            picker or f"picker-{app}",
            select=select,
            mode=mode,
            **{"port": port, **more},
        )

    def route(self, host: str, *backends: str | Object, name: str = "", **more: Any) -> Object:
        """An HTTPRoute for a host. A backend is a pool's name, or a whole backendRef."""
        whole = [workloads.to_pool(b) if isinstance(b, str) else b for b in backends]
        own = name or host.removesuffix(".example").replace(".", "-")
        return workloads.route(own, self.namespace, host, whole, **more)

    @asynccontextmanager
    async def made(self, *items: Object) -> AsyncIterator[None]:
        """Create objects, and delete them at the end of the block, routes first."""
        done: list[Object] = []
        try:
            for item in items:
                await self.target.api.create(item)
                done.append(item)
            yield
        finally:
            for item in reversed(done):
                with contextlib.suppress(ApiError):
                    await self.target.api.delete(item)

    async def pods(self, app: str) -> list[PodFacts]:
        """The ready Pods of a Deployment that do not terminate, by name."""
        found = await self.target.api.call(
            "GET",
            f"/api/v1/namespaces/{self.namespace}/pods",
            query={"labelSelector": f"app={app}"},
        )
        facts = [
            PodFacts(item["metadata"]["name"], item["status"]["podIP"])
            for item in found["items"]
            if "deletionTimestamp" not in item["metadata"] and _ready(item)
        ]
        self._names |= {pod.ip: pod.name for pod in facts}
        return sorted(facts)

    async def until(self, what: str, holds: Callable[[], Awaitable[str]]) -> None:
        """Wait until `holds` returns an empty text. The text tells what is missing.

        Raises:
            Failed: it did not within the patience for changes, or is not expected to (`hopeless`).
        """
        said, begun, stuck = "", monotonic(), 0.0
        try:
            async with asyncio.timeout(self.target.patience):
                while said := await holds():
                    now = monotonic()
                    if not self.hopeless or self.hopeless not in said:
                        stuck = 0.0
                    elif not stuck:
                        stuck = now
                    elif now - stuck > SURE:
                        break
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            pass
        if said:
            raise Failed(f"{what}: not within {monotonic() - begun:.0f} s: {said}")

    # --- requests ---

    def url(self, gateway: str = "one", listener: int = 0, path: str = "/") -> str:
        """The URL of a listener."""
        address = self.addresses[gateway]
        return f"http://{address}:{workloads.PORTS[gateway][listener]}{path}"

    async def ask(
        self,
        host: str,
        path: str = "/",
        *,
        gateway: str = "one",
        listener: int = 0,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send a request for a host: a POST if it has a body, else a GET."""
        return await ask(
            self.session,
            self.url(gateway, listener, path),
            host,
            method="GET" if body is None else "POST",
            headers=headers,
            body=body,
        )

    async def served_by(self, answer: Answer) -> str:
        """The name of the Pod that served an answer; empty if none did."""
        if answer.pod or not answer.endpoint:
            return answer.pod
        ip = answer.endpoint.rpartition(":")[0]
        if ip not in self._names:
            for app in ("gamma",):
                await self.pods(app)
        return self._names.get(ip, ip)

    async def outcome(self, answer: Answer) -> str:
        """The status, and the Deployment whose Pod served."""
        pod = await self.served_by(answer)
        return f"{answer.status} {pod.partition('-')[0]}".strip()

    async def settled(self, one: Ask, expected: Collection[str], count: int = ROUND) -> None:
        """Wait until one round of requests has exactly the expected outcomes.

        Raises:
            Failed: no round had them in time.
        """
        said = "no answer"

        async def holds() -> str:
            nonlocal said
            # One request first: a round against a gateway that is not ready yet is wasted.
            for wanted in (1, count):
                answers = await together(wanted, min(wanted, 8), one)
                seen = Counter([await self.outcome(answer) for answer in answers])
                said = ", ".join(f"{n} of {wanted}: {what}" for what, n in sorted(seen.items()))
                if not set(seen) <= set(expected):
                    return said
            return "" if set(seen) == set(expected) else said

        await self.until(f"expected {_listed(expected)}", holds)

    async def always(
        self, one: Ask, expected: Collection[str], count: int, at_once: int = 8
    ) -> list[Answer]:
        """Send requests, which all have to have an expected outcome; each of them has to occur.

        Raises:
            Failed: one has another outcome, or an expected one is missing.
        """
        answers = await together(count, at_once, one)
        seen: set[str] = set()
        for answer in answers:
            found = await self.outcome(answer)
            seen.add(found)
            if found not in expected:
                by = await self.served_by(answer)
                raise Failed(
                    f"expected {_listed(expected)}, but a request had {answer.said}"
                    + (f", served by {by}" if by else "")
                )
        if missing := set(expected) - seen:
            raise Failed(f"of {count} requests none had {_listed(missing)}")
        return answers

    async def serves(
        self, host: str, expected: Collection[str], count: int = 60, **more: Any
    ) -> list[Answer]:
        """`settled`, and then `always`: from the first right round on, nothing else is accepted."""

        def one() -> Awaitable[Answer]:
            return self.ask(host, **more)

        await self.settled(one, expected)
        return await self.always(one, expected, count)


def _ready(item: Object) -> bool:
    conditions = item["status"].get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _listed(outcomes: Collection[str]) -> str:
    return " or ".join(sorted(outcomes))


# --- set-up ---


async def prepare(site: Site, needs: Collection[str]) -> None:
    """Start the Pods, pickers and Gateways that checks need: `alpha`, `beta` and `roll` (echo servers),
    `delta` (a gRPC echo server), `gamma` (simulated model servers), `dead`, `simulated` (a picker).

    Raises:
        Failed: something was not ready in time.
    """
    api, namespace = site.target.api, site.namespace
    await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for item in objects(site, needs):
        await api.create(item)
    for name in ("one", "two"):
        await api.create(workloads.gateway(name, namespace, site.target.gateway_class))
    await _started(site)
    for name in ("one", "two"):
        site.addresses[name] = await programmed(site, name)


def objects(site: Site, needs: Collection[str]) -> Sequence[Object]:
    """The Pods and pickers that checks need."""
    images, namespace = site.target.images, site.namespace
    makers: Mapping[str, Callable[[], Object]] = {
        "alpha": lambda: workloads.echo("alpha", namespace, images, 3),
        "beta": lambda: workloads.echo("beta", namespace, images, 2),
        "roll": lambda: workloads.echo("roll", namespace, images, 2, drains=True),
        "delta": lambda: workloads.echo("delta", namespace, images, 1, GRPC_ECHO_SERVER="1"),
        "gamma": lambda: workloads.model("gamma", namespace, images, 2),
    }
    found = workloads.rights(namespace)
    for app, make in makers.items():
        if app in needs:
            found += [make(), *workloads.lwepp(app, namespace, images)]
            protocol = {"appProtocol": "kubernetes.io/h2c"} if app == "delta" else {}
            found.append(site.pool(app, app, **protocol))
    if "dead" in needs:
        found.append(workloads.dead(namespace, images))
        found.append(workloads.service("picker-dead", namespace, {"app": "dead"}))
    if "simulated" in needs:
        found += workloads.simulated_picker(namespace, images, workloads.certificate())
    return [*found, workloads.service("picker-nobody", namespace, {"app": "nobody"})]


async def _started(site: Site) -> None:
    """Wait until all Deployments have their Pods."""
    path = f"/apis/apps/v1/namespaces/{site.namespace}/deployments"
    missing: list[str] = []
    try:
        async with asyncio.timeout(site.target.start):
            while True:
                items = (await site.target.api.call("GET", path))["items"]
                missing = [
                    item["metadata"]["name"]
                    for item in items
                    if (item.get("status") or {}).get("readyReplicas", 0)
                    != item["spec"]["replicas"]
                ]
                if not missing:
                    return
                await asyncio.sleep(_POLL)
    except TimeoutError:
        text = f"not ready within {site.target.start:.0f} s: Deployments {', '.join(missing)}"
        raise Failed(text) from None


async def programmed(site: Site, name: str) -> str:
    """The address of a Gateway, once it is accepted and programmed.

    Raises:
        Failed: it was not in time.
    """
    wanted = workloads.gateway(name, site.namespace, site.target.gateway_class)
    status: Object = {}
    try:
        async with asyncio.timeout(site.target.start):
            while True:
                status = (await site.target.api.get(wanted)).get("status") or {}
                true = {c["type"] for c in status.get("conditions") or () if c["status"] == "True"}
                addresses = status.get("addresses") or ()
                if {"Accepted", "Programmed"} <= true and addresses:
                    return str(addresses[0]["value"])
                await asyncio.sleep(_POLL)
    except TimeoutError:
        text = f"Gateway {name} is not programmed within {site.target.start:.0f} s: {status}"
        raise Failed(text) from None
