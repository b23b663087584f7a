"""Writing status over an API server: what is written, when not, and what becomes of refusals."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import HTTP_ROUTE, INFERENCE_POOL, SERVICE, Resource
from epp_client.kubernetes.status.findings import Inputs, said_of_pools
from epp_client.kubernetes.status.merge import MAX_PARENTS, Parent
from epp_client.kubernetes.status.report import Pace, StatusReporter, WriteResult
from epp_client.kubernetes.status.routes import GATEWAY_GROUP, POOL_GROUP
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.parse import parse_inference_pool
from epp_client.pool.resolve import World, resolve
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from testbed.kubernetes.patches import Object
from testbed.kubernetes.watches import Asked
from tests.kubernetes.client import ApiServer
from tests.kubernetes.manifests import inference_pool, service

AT_ONCE = Pace(settle=0.0, between=0.0, object=0.0, conflict=0.0)
CONTROLLER = "epp-client.dev/gateway"


@dataclass
class Rig:
    """A sidecar's knowledge, as of the last `look`, and one reporter over it."""

    server: ApiServer
    api: KubernetesApi
    named: set[PoolName] = field(default_factory=set)
    pace: Pace = AT_ONCE
    gateway: str = "edge"
    leads: Callable[[], bool] = lambda: True
    clock: Callable[[], float] = time.monotonic
    results: list[WriteResult] = field(default_factory=list)
    counted: asyncio.Event = field(default_factory=asyncio.Event)
    pools: dict[PoolName, Object] | None = None
    routes: list[Object] | None = None

    def __post_init__(self) -> None:
        self.store = PoolStore()
        parent = Parent(GatewayName(self.server.namespace, self.gateway), CONTROLLER)
        inputs = Inputs(
            self.store, PoolSettings(), lambda: self.pools, lambda: self.routes, self.named
        )
        self.reporter = StatusReporter(
            self.api,
            lambda: said_of_pools(inputs, parent),
            self.leads,
            self._count,
            self.pace,
            self.clock,
        )

    def _count(self, result: WriteResult) -> None:
        self.results.append(result)
        self.counted.set()

    def name(self, pool: str = "llama") -> PoolName:
        return PoolName(self.server.namespace, pool)

    async def _list(self, resource: Resource) -> list[Object]:
        return (await self.api.list_page(resource, self.server.namespace)).items

    async def look(self, *, resolved: bool = True) -> None:
        """What watches would have told by now; and what is resolved from it."""
        self.pools = {self.name(p["metadata"]["name"]): p for p in await self._list(INFERENCE_POOL)}
        self.routes = await self._list(HTTP_ROUTE)
        if resolved:
            parsed = [parse_inference_pool(p, PoolSettings())[0] for p in self.pools.values()]
            pools = {pool.name: pool for pool in parsed if pool is not None}
            services = await self._list(SERVICE)
            self.store.publish(resolve(World(pools, services=services), None, 0.0).snapshots)

    async def report(self) -> None:
        await self.look()
        await self.reporter.report()

    async def parents(self, pool: str = "llama") -> list[Any]:
        found = await self.server.get(INFERENCE_POOL, pool)
        return list(found.get("status", {}).get("parents", []))

    async def entry(self, pool: str = "llama") -> dict[str, Any]:
        """Our entry, its conditions by type."""
        (entry,) = [e for e in await self.parents(pool) if e.get("controllerName") == CONTROLLER]
        return {**entry, "conditions": {c["type"]: c for c in entry["conditions"]}}

    async def until(self, result: WriteResult) -> None:
        while result not in self.results:
            self.counted.clear()
            await self.counted.wait()


@pytest.fixture
def rig(api_server: ApiServer, api: KubernetesApi) -> Rig:
    return Rig(api_server, api, {PoolName(api_server.namespace, "llama")})


@pytest.fixture
async def pool(api_server: ApiServer) -> Object:
    """An InferencePool `llama` and its picker's Service."""
    await api_server.create(SERVICE, service())
    return await api_server.create(INFERENCE_POOL, inference_pool("llama"))


def route(pool: str = "llama", name: str = "chat", gateway: str = "edge") -> Object:
    backend = {"group": POOL_GROUP, "kind": "InferencePool", "name": pool}
    spec = {"parentRefs": [{"name": gateway}], "rules": [{"backendRefs": [backend]}]}
    return {"metadata": {"name": name}, "spec": spec}


async def judge(server: ApiServer, status: str, name: str = "chat") -> None:
    """What a Gateway's controller writes into a route's status."""
    condition = {
        "type": "Accepted",
        "status": status,
        "reason": "Accepted" if status == "True" else "NotAllowedByListeners",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    parent = {
        "parentRef": {"name": "edge"},
        "controllerName": "example.com/gateway",
        "conditions": [condition],
    }
    await server.patch(HTTP_ROUTE, name, {"status": {"parents": [parent]}}, "status")


def foreign(name: str) -> dict[str, Any]:
    """Another controller's entry, complete, so that the server adds no defaults."""
    condition = {
        "type": "Accepted",
        "status": "False",
        "reason": "Whatever",
        "message": "ü",
        "observedGeneration": 7,
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    }
    return {
        "parentRef": {
            "group": GATEWAY_GROUP,
            "kind": "Gateway",
            "name": name,
            "namespace": "elsewhere",
        },
        "controllerName": "example.com/gateway",
        "conditions": [condition],
    }


async def write(server: ApiServer, *entries: dict[str, Any]) -> None:
    """Another controller writes."""
    await server.patch(INFERENCE_POOL, "llama", {"status": {"parents": list(entries)}}, "status")


def writes(asked: Asked) -> bool:
    return asked.verb == "patch" and asked.subresource == "status"


async def test_a_pool_that_the_command_line_names_gets_its_entry(rig: Rig, pool: Object) -> None:
    await rig.report()
    entry = await rig.entry()
    assert entry["parentRef"] == {
        "group": GATEWAY_GROUP,
        "kind": "Gateway",
        "namespace": rig.server.namespace,
        "name": "edge",
    }
    said = {c["type"]: (c["status"], c["reason"]) for c in entry["conditions"].values()}
    assert said == {
        "Accepted": ("True", "Accepted"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
        "Exported": ("False", "NotRequested"),
    }
    assert {c["observedGeneration"] for c in entry["conditions"].values()} == {1}
    assert rig.results == [WriteResult.WRITTEN]


async def test_nothing_but_the_status_is_written(rig: Rig, pool: Object) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "1"}
    mark = {"metadata": {"labels": {"team": "a"}, "ownerReferences": [owner]}}
    before = await rig.server.patch(INFERENCE_POOL, "llama", mark)
    await rig.report()
    after = await rig.server.get(INFERENCE_POOL, "llama")
    moving = ("resourceVersion", "managedFields")
    for found in (before, after):
        for key in moving:
            found["metadata"].pop(key, None)
    assert after["metadata"] == before["metadata"]
    assert after["spec"] == before["spec"]


async def test_what_holds_already_is_not_written_again(rig: Rig, pool: Object) -> None:
    await rig.report()
    await rig.report()
    assert rig.results == [WriteResult.WRITTEN]


async def test_a_watch_that_lags_behind_our_own_write_causes_no_other(
    rig: Rig, pool: Object
) -> None:
    await rig.look()
    await rig.reporter.report()
    await rig.reporter.report()
    assert rig.results == [WriteResult.WRITTEN]


async def test_a_pool_that_nothing_ties_to_the_gateway_gets_no_entry(
    rig: Rig, pool: Object
) -> None:
    rig.named.clear()
    await rig.server.create(HTTP_ROUTE, route(gateway="other"))
    await rig.report()
    assert rig.results == []


async def test_the_entry_follows_the_route_and_goes_with_it(rig: Rig, pool: Object) -> None:
    rig.named.clear()
    await write(rig.server, foreign("a"), foreign("b"))
    await rig.server.create(HTTP_ROUTE, route())
    await rig.report()
    accepted = (await rig.entry())["conditions"]["Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("Unknown", "Pending")
    await judge(rig.server, "False")
    await rig.report()
    accepted = (await rig.entry())["conditions"]["Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", "HTTPRouteNotAccepted")
    await judge(rig.server, "True")
    await rig.report()
    assert (await rig.entry())["conditions"]["Accepted"]["status"] == "True"
    await rig.server.delete(HTTP_ROUTE, "chat")
    await rig.report()
    assert await rig.parents() == [foreign("a"), foreign("b")]
    assert rig.results == [WriteResult.WRITTEN] * 4


async def test_unknown_routes_take_no_entry_away(rig: Rig, pool: Object) -> None:
    await rig.report()
    rig.named.clear()
    await rig.look()
    rig.routes = None
    await rig.reporter.report()
    assert rig.results == [WriteResult.WRITTEN]
    await rig.report()
    assert await rig.parents() == []


async def test_a_reference_that_breaks_is_told(rig: Rig, pool: Object) -> None:
    await rig.report()
    await rig.server.delete(SERVICE, "picker")
    await rig.report()
    conditions = (await rig.entry())["conditions"]
    assert conditions["ResolvedRefs"]["reason"] == "InvalidExtensionRef"
    assert conditions["Accepted"]["status"] == "True"


async def test_a_generation_that_is_not_resolved_yet_is_not_spoken_of(
    rig: Rig, pool: Object
) -> None:
    await rig.report()
    await rig.server.patch(INFERENCE_POOL, "llama", {"spec": {"targetPorts": [{"number": 9}]}})
    await rig.look(resolved=False)
    await rig.reporter.report()
    assert (await rig.entry())["conditions"]["Accepted"]["observedGeneration"] == 1
    await rig.report()
    assert (await rig.entry())["conditions"]["Accepted"]["observedGeneration"] == 2


async def test_who_does_not_lead_writes_nothing(
    api_server: ApiServer, api: KubernetesApi, pool: Object
) -> None:
    rig = Rig(api_server, api, {PoolName(api_server.namespace, "llama")}, leads=lambda: False)
    await rig.report()
    assert await rig.parents() == []


async def test_what_another_wrote_meanwhile_is_read_anew_and_kept(rig: Rig, pool: Object) -> None:
    await rig.look()
    await write(rig.server, foreign("a"))
    await rig.reporter.report()
    assert rig.results == [WriteResult.CONFLICT, WriteResult.WRITTEN]
    assert (await rig.parents())[0] == foreign("a")
    assert (await rig.entry())["conditions"]["Accepted"]["status"] == "True"


async def test_two_gateways_share_a_pool(
    api_server: ApiServer, api: KubernetesApi, pool: Object
) -> None:
    named = {PoolName(api_server.namespace, "llama")}
    one, two = (Rig(api_server, api, named, gateway=name) for name in ("one", "two"))
    await asyncio.gather(one.look(), two.look())
    await asyncio.gather(one.reporter.report(), two.reporter.report())
    assert {entry["parentRef"]["name"] for entry in await one.parents()} == {"one", "two"}
    assert WriteResult.FAILED not in one.results + two.results


async def test_a_pool_that_was_edited_meanwhile_is_looked_at_anew(rig: Rig, pool: Object) -> None:
    await rig.look()
    await rig.server.patch(INFERENCE_POOL, "llama", {"spec": {"targetPorts": [{"number": 9}]}})
    await rig.reporter.report()
    assert rig.results == [WriteResult.CONFLICT]
    assert await rig.parents() == []


async def test_a_pool_that_is_gone_is_no_failure(rig: Rig, pool: Object) -> None:
    await rig.look()
    await rig.server.delete(INFERENCE_POOL, "llama")
    await rig.reporter.report()
    assert rig.results == []


async def test_a_full_list_is_told_once_and_left_alone(rig: Rig, pool: Object) -> None:
    full = [foreign(f"gw{index}") for index in range(MAX_PARENTS)]
    await write(rig.server, *full)
    await rig.report()
    await rig.report()
    assert rig.results == [WriteResult.FULL]
    assert await rig.parents() == full
    await write(rig.server, *full[1:])
    await rig.report()
    assert rig.results == [WriteResult.FULL, WriteResult.WRITTEN]
    assert (await rig.parents())[:-1] == full[1:]


# --- refusals, which a real server does not give on demand ---


async def test_conflicts_without_an_end_are_given_up(rig: Rig, pool: Object) -> None:
    rig.server.double.fail(writes, times=math.inf, code=409)
    await rig.report()
    assert rig.results == [WriteResult.CONFLICT] * (AT_ONCE.tries - 1) + [WriteResult.FAILED]


async def test_a_server_that_does_not_know_our_fields_is_left_alone(
    rig: Rig, pool: Object, capsys: pytest.CaptureFixture[str]
) -> None:
    double = rig.server.double
    double.fail(writes, times=math.inf, code=422)
    await rig.report()
    await rig.report()
    assert rig.results == [WriteResult.FAILED]
    assert "CRD without controllerName" in capsys.readouterr().out
    (asked,) = filter(writes, double.requests)
    assert asked.query["fieldValidation"] == "Strict"


@pytest.fixture
async def running(api_server: ApiServer, api: KubernetesApi) -> AsyncIterator[Rig]:
    pace = Pace(settle=0.0, between=0.0, object=0.01, conflict=0.0)
    rig = Rig(api_server, api, {PoolName(api_server.namespace, "llama")}, pace)
    task = asyncio.create_task(rig.reporter.run())
    yield rig
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})


async def test_a_write_that_is_forbidden_ends_nothing(running: Rig, pool: Object) -> None:
    double = running.server.double
    double.forbidden.add(("patch", "inferencepools/status"))
    await running.server.create(INFERENCE_POOL, inference_pool("other"))
    await running.look()
    running.reporter.wake()
    await running.until(WriteResult.FORBIDDEN)
    # Of one namespace's RoleBinding it says nothing about another's: other pools are tried.
    double.forbidden.clear()
    running.named.add(running.name("other"))
    running.reporter.wake()
    await running.until(WriteResult.WRITTEN)
    assert (await running.entry("other"))["conditions"]["Accepted"]["status"] == "True"


async def test_a_server_that_is_down_is_asked_once_and_then_again_later(
    running: Rig, pool: Object
) -> None:
    double = running.server.double
    for index in range(5):
        await running.server.create(INFERENCE_POOL, inference_pool(f"more{index}"))
        running.named.add(running.name(f"more{index}"))
    await running.look()
    double.requests.clear()
    fault = double.fail(writes, times=1, code=503)
    running.reporter.wake()
    await running.until(WriteResult.FAILED)
    assert fault.times == 0
    while running.results.count(WriteResult.WRITTEN) < 6:
        running.counted.clear()
        await running.counted.wait()
    assert running.results[0] == WriteResult.FAILED
    assert double.count("patch", INFERENCE_POOL) == 7


class Clock:
    """A clock that a test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def contested(api_server: ApiServer, api: KubernetesApi) -> tuple[Rig, Clock]:
    """A rig after two minutes of a foreign hand that takes our entry away again."""
    clock, named = Clock(), {PoolName(api_server.namespace, "llama")}
    pace = Pace(settle=0.0, between=0.0, conflict=0.0)
    rig = Rig(api_server, api, named, pace, clock=clock)
    for turn in range(240):
        await write(api_server)
        clock.now = turn / 2
        await rig.report()
    return rig, clock


async def test_news_are_written_soon_however_often_the_object_was_written_before(
    api_server: ApiServer, api: KubernetesApi, pool: Object
) -> None:
    rig, clock = await contested(api_server, api)
    for labels in ({"app": "a"}, {"app": "b"}):
        spec = {"selector": {"matchLabels": labels}}
        edited = await api_server.patch(INFERENCE_POOL, "llama", {"spec": spec})
        clock.now += 1.5
        await rig.report()
        accepted = (await rig.entry())["conditions"]["Accepted"]
        assert accepted["observedGeneration"] == edited["metadata"]["generation"]
    # Its last reference goes, and with it our entry.
    rig.named.clear()
    clock.now += 1.5
    await rig.report()
    assert await rig.parents() == []


async def test_a_pool_that_never_comes_to_rest_is_written_ever_more_seldom(
    api_server: ApiServer, api: KubernetesApi, pool: Object
) -> None:
    rig, clock = await contested(api_server, api)
    assert rig.results.count(WriteResult.WRITTEN) <= 8
    clock.now += 1000.0
    await rig.report()
    assert (await rig.entry())["conditions"]["Accepted"]["status"] == "True"
