"""A sidecar's control process, as far as a Gateway is concerned, against an API server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from epp_client.gateway.table import Forward, GatewayTable
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, Resource
from epp_client.kubernetes.follow.queries import Scope
from epp_client.kubernetes.follow.reflector import Pace as ReflectorPace
from epp_client.kubernetes.follow.source import KubernetesSource
from epp_client.kubernetes.gateway import GatewayUse, KubernetesGateway
from epp_client.kubernetes.status.report import Pace, WriteResult
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from epp_client.settings import DEFAULT_CONTROLLER, KubernetesSettings
from testbed.kubernetes.patches import Object
from tests.kubernetes.client import ApiServer

QUICK = ReflectorPace(first=0.02, longest=0.1, absent=0.1, settled=0.05)
AT_ONCE = Pace(settle=0.01, between=0.0, object=0.02, conflict=0.01)
PATIENCE = 20.0


@dataclass
class Rig:
    """What is followed, and all tables that were served."""

    server: ApiServer
    gateway: KubernetesGateway
    source: KubernetesSource
    tables: list[GatewayTable | None] = field(default_factory=list)
    missing: str | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    results: list[WriteResult] = field(default_factory=list)
    acknowledged: bool | None = True
    """Whether Envoy has each table at once."""

    def serve(self, table: GatewayTable | None) -> None:
        self.tables.append(table)
        self.news.set()

    def listed(self, missing: str) -> None:
        self.missing = missing
        self.news.set()

    @property
    def table(self) -> GatewayTable | None:
        return self.tables[-1] if self.tables else None

    def followed(self) -> set[Resource]:
        """The kinds that are followed for the Gateway, apart from its routes."""
        assert self.gateway.source is not None
        return {reflector.query.resource for reflector in self.gateway.source._reflectors}

    def rows(self) -> dict[str, list[str]]:
        """The targets of each path."""
        found: dict[str, list[str]] = {}
        for entry in self.table.entries() if self.table is not None else ():
            if isinstance(entry.action, Forward):
                targets = [str(backend.target) for backend in entry.action.backends]
                found[entry.match.path.value] = [t.rpartition("/")[2] for t in targets]
        return found

    async def until(self, holds: Callable[[], Any]) -> None:
        """Until something is served for which `holds` is true."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self.news.clear()
                await self.news.wait()

    async def status(self, resource: Resource, name: str, holds: Callable[[Object], Any]) -> Object:
        """The status of an object once `holds` is true of it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await self.server.get(resource, name)
                if holds(status := found.get("status") or {}):
                    return status
                await asyncio.sleep(0.02)


@asynccontextmanager
async def following(
    server: ApiServer, api: KubernetesApi, *, patience: float = 30.0, **settings: Any
) -> AsyncIterator[Rig]:
    """A running rig for the Gateway `edge` and all of the test's namespace."""
    rig: Rig
    store, clock = PoolStore(), asyncio.get_running_loop().time
    scope = Scope((server.namespace,))
    source = KubernetesSource(api, scope, store, PoolSettings(), clock, pace=QUICK)
    given = {"gateway": f"{server.namespace}/edge", "lease_namespace": server.namespace}
    gateway = KubernetesGateway(
        KubernetesSettings(**(given | settings)),
        api,
        source,
        scope,
        store,
        PoolSettings(),
        clock,
        lambda result: rig.results.append(result),
        GatewayUse(
            lambda table: rig.serve(table),
            lambda: rig.acknowledged,
            lambda missing: rig.listed(missing),
        ),
        AT_ONCE,
        QUICK,
        patience,
    )
    rig = Rig(server, gateway, source)
    gateway.start()
    task = asyncio.create_task(source.run())
    try:
        yield rig
    finally:
        await gateway.stop()
        task.cancel()
        await asyncio.wait({task})
    assert not [t for t in asyncio.all_tasks() if "Reflector" in repr(t.get_coro())]


def class_name(server: ApiServer) -> str:
    """GatewayClasses have no namespace: each test has its own."""
    return f"class-{server.namespace}"


async def make_class(server: ApiServer, controller: str = DEFAULT_CONTROLLER) -> None:
    metadata = {"name": class_name(server)}
    await server.create(
        GATEWAY_CLASS, {"metadata": metadata, "spec": {"controllerName": controller}}
    )


async def make_gateway(server: ApiServer, *listeners: Object, name: str = "edge") -> None:
    http = {"name": "http", "port": 80, "protocol": "HTTP"}
    spec = {"gatewayClassName": class_name(server), "listeners": list(listeners) or [http]}
    await server.create(GATEWAY, {"metadata": {"name": name}, "spec": spec})


def route(name: str, path: str, backend: Object, gateway: str = "edge", **parent: Any) -> Object:
    """An HTTPRoute with one rule."""
    match = {"path": {"type": "PathPrefix", "value": path}}
    rules = [{"matches": [match], "backendRefs": [backend]}]
    spec = {"parentRefs": [{"name": gateway, **parent}], "rules": rules}
    return {"metadata": {"name": name}, "spec": spec}


def to_pool(name: str) -> Object:
    return {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name}


def to_service(name: str, port: int = 9002) -> Object:
    return {"name": name, "port": port}


async def make_route(server: ApiServer, *arguments: Any, **more: Any) -> None:
    await server.create(HTTP_ROUTE, route(*arguments, **more))
