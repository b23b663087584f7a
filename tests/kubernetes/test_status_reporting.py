"""From objects on an API server to what its status says, with everything between running."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from epp_client.errors import SettingsError
from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.client.access import Access
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import HTTP_ROUTE, INFERENCE_POOL, LEASE, SERVICE
from epp_client.kubernetes.follow.queries import Scope
from epp_client.kubernetes.follow.reflector import Pace as ReflectorPace
from epp_client.kubernetes.follow.routes import RouteSource
from epp_client.kubernetes.follow.source import KubernetesSource
from epp_client.kubernetes.status.lease import Terms
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.report import Pace, WriteResult
from epp_client.kubernetes.status.reporting import Reporting, Role, own_identity
from epp_client.metrics.counters import Counters
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from epp_client.settings import DEFAULT_CONTROLLER, serve_settings
from epp_client.sidecar import running
from testbed.kubernetes.patches import Object
from tests.kubernetes.client import ApiServer
from tests.kubernetes.manifests import inference_pool, service
from tests.kubernetes.test_status_report import foreign, route

QUICK = Pace(settle=0.0, between=0.0, object=0.01, conflict=0.01)
RETRIES = ReflectorPace(first=0.01, longest=0.1, absent=0.05)
TERMS = Terms(duration=1, renewal=0.2)


@dataclass
class Replica:
    """A sidecar's control process, as far as status is concerned."""

    reporting: Reporting
    source: KubernetesSource
    results: list[WriteResult] = field(default_factory=list)
    leading: asyncio.Event = field(default_factory=asyncio.Event)
    deposed: asyncio.Event = field(default_factory=asyncio.Event)

    def leads(self, leads: bool) -> None:
        (self.leading if leads else self.deposed).set()


@asynccontextmanager
async def replica(
    server: ApiServer, scope: Scope, kubeconfig: Path | None = None
) -> AsyncIterator[Replica]:
    api = KubernetesApi(Access(kubeconfig or server.kubeconfig))
    await api.open()
    store = PoolStore()
    source = KubernetesSource(api, scope, store, PoolSettings(), time.monotonic, pace=RETRIES)
    routes = RouteSource(api, scope, source.asked, RETRIES)
    parent = Parent(GatewayName(server.namespace, "edge"), DEFAULT_CONTROLLER)
    role = Role(parent, server.namespace, own_identity())
    found: Replica
    reporting = Reporting(
        api,
        source,
        routes,
        store,
        PoolSettings(),
        role,
        lambda result: found.results.append(result),
        lambda leads: found.leads(leads),
        QUICK,
        TERMS,
        named=scope.pools,
    )
    found = Replica(reporting, source)
    tasks = [asyncio.create_task(source.run()), asyncio.create_task(routes.run())]
    reporting.start()
    try:
        yield found
    finally:
        await reporting.stop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await api.close()


async def told(server: ApiServer, holds: Callable[[Object], bool], pool: str = "llama") -> Object:
    """Our entry once it is as it should be, or {} once there is none and that is right."""
    while True:
        found = await server.get(INFERENCE_POOL, pool)
        parents = found.get("status", {}).get("parents", [])
        ours = [e for e in parents if e.get("controllerName") == DEFAULT_CONTROLLER]
        entry: Object = {}
        if ours:
            (only,) = ours
            entry = {c["type"]: c for c in only["conditions"]}
        if holds(entry):
            return entry
        await asyncio.sleep(0.02)


def accepted(entry: Object) -> bool:
    return bool(entry) and entry["Accepted"]["status"] == "True"


def absent(entry: Object) -> bool:
    return not entry


@pytest.fixture
async def pool(api_server: ApiServer) -> Object:
    await api_server.create(SERVICE, service())
    return await api_server.create(INFERENCE_POOL, inference_pool("llama"))


def named(server: ApiServer) -> Scope:
    return Scope(pools=(PoolName(server.namespace, "llama"),))


def whole(server: ApiServer) -> Scope:
    return Scope(namespaces=(server.namespace,))


async def test_a_pool_that_the_command_line_names_is_reported(
    api_server: ApiServer, pool: Object
) -> None:
    async with replica(api_server, named(api_server)):
        entry = await told(api_server, accepted)
        assert entry["ResolvedRefs"]["status"] == "True"
        spec = (await api_server.get(LEASE, f"epp-client.{api_server.namespace}.edge"))["spec"]
        assert spec["holderIdentity"]


async def test_edits_of_the_pool_its_picker_and_its_route_are_followed(
    api_server: ApiServer, pool: Object
) -> None:
    async with replica(api_server, whole(api_server)):
        await api_server.create(HTTP_ROUTE, route())
        await told(api_server, lambda e: bool(e) and e["Accepted"]["reason"] == "Pending")
        await api_server.delete(SERVICE, "picker")
        await told(api_server, lambda e: e["ResolvedRefs"]["reason"] == "InvalidExtensionRef")
        patch = {"spec": {"targetPorts": [{"number": 8001}]}}
        await api_server.patch(INFERENCE_POOL, "llama", patch)
        await told(api_server, lambda e: e["Accepted"]["observedGeneration"] == 2)
        await api_server.patch(HTTP_ROUTE, "chat", {"spec": {"parentRefs": [{"name": "other"}]}})
        await told(api_server, absent)


async def test_an_entry_that_another_has_overwritten_is_written_again(
    api_server: ApiServer, pool: Object
) -> None:
    async with replica(api_server, named(api_server)):
        await told(api_server, accepted)
        patch = {"status": {"parents": [foreign("a")]}}
        await api_server.patch(INFERENCE_POOL, "llama", patch, "status")
        await told(api_server, accepted)
        found = await api_server.get(INFERENCE_POOL, "llama")
        assert found["status"]["parents"][0] == foreign("a")


async def test_a_sidecar_reports_counts_and_hands_over_before_it_drains(
    api_server: ApiServer, pool: Object, tmp_path: Path
) -> None:
    gateway = f"{api_server.namespace}/edge"
    settings = serve_settings(
        {
            "kubernetes": {
                "kubeconfig": api_server.kubeconfig,
                "named_pools": [f"{api_server.namespace}/llama"],
                "gateway": gateway,
            },
            "workers": 0,
            "socket": tmp_path / "ext-proc.sock",
            "xds_socket": None,
            "admin": "127.0.0.1:0",
        }
    )
    lease = f"epp-client.{api_server.namespace}.edge"
    async with running(settings) as sidecar:
        await told(api_server, accepted)
        # The API server shows the write a moment before we hear its answer and count it.
        written = b'epp_client_status_writes_total{result="written"} 1.0'
        while written not in sidecar.metrics.scrape(Counters()).body:
            await asyncio.sleep(0.01)
        assert b"epp_client_status_leader 1.0" in sidecar.metrics.scrape(Counters()).body
        assert (await api_server.get(LEASE, lease))["spec"]["holderIdentity"]
    assert (await api_server.get(LEASE, lease))["spec"]["holderIdentity"] == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gateway": "edge"}, "namespace/name"),
        ({"controller_name": "no-path"}, "controller_name"),
        ({"controller_name": "A.dev/x"}, "controller_name"),
        ({"lease_namespace": ""}, "lease_namespace"),
    ],
)
def test_settings_that_say_nothing_usable_are_refused(given: Object, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        serve_settings({"kubernetes": given})


async def test_what_a_replica_has_said_stays_when_it_stops(
    api_server: ApiServer, pool: Object
) -> None:
    async with replica(api_server, named(api_server)):
        await told(api_server, accepted)
    await told(api_server, accepted)


async def test_the_kind_httproute_may_come_and_go(api_server: ApiServer, pool: Object) -> None:
    double = api_server.double
    double.objects.uninstall(HTTP_ROUTE)
    async with replica(api_server, whole(api_server)) as one:
        await one.leading.wait()
        double.objects.install(HTTP_ROUTE)
        await api_server.create(HTTP_ROUTE, route())
        await told(api_server, bool)
        double.objects.uninstall(HTTP_ROUTE)
        double.cut_watches()
        await told(api_server, absent)


async def test_httproutes_that_may_not_be_listed_take_no_entry_away(
    api_server: ApiServer, pool: Object
) -> None:
    async with replica(api_server, whole(api_server)):
        await api_server.create(HTTP_ROUTE, route())
        await told(api_server, bool)
    double = api_server.double
    double.forbidden |= {("list", "httproutes"), ("watch", "httproutes")}
    await api_server.delete(HTTP_ROUTE, "chat")
    await api_server.create(INFERENCE_POOL, inference_pool("other"))
    scope = Scope((api_server.namespace,), (PoolName(api_server.namespace, "other"),))
    async with replica(api_server, scope):
        await told(api_server, accepted, "other")
        await told(api_server, bool)
        double.forbidden.clear()
        await told(api_server, absent)


async def test_when_the_writer_dies_another_writes(
    api_server: ApiServer, pool: Object, tmp_path: Path
) -> None:
    double = api_server.double
    async with AsyncExitStack() as stack:

        async def start(token: str) -> Replica:
            file = double.kubeconfig(tmp_path / token, token)
            return await stack.enter_async_context(replica(api_server, named(api_server), file))

        first = await start("first")
        await first.leading.wait()
        await told(api_server, accepted)
        second = await start("second")
        # Dead as far as the server can tell: nothing of the first one's gets there any more.
        cut = double.fail(lambda asked: asked.authorization == "Bearer first", times=10**9)
        written = len(first.results)
        await first.deposed.wait()
        await second.leading.wait()
        await api_server.delete(SERVICE, "picker")
        await told(api_server, lambda e: e["ResolvedRefs"]["status"] == "False")
        assert WriteResult.WRITTEN in second.results
        assert len(first.results) == written
        cut.times = 0


async def test_who_is_told_to_stop_hands_over(api_server: ApiServer, pool: Object) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(replica(api_server, named(api_server)))
        await first.leading.wait()
        second = await stack.enter_async_context(replica(api_server, named(api_server)))
        await first.reporting.stop()
        await second.leading.wait()
        await api_server.delete(SERVICE, "picker")
        await told(api_server, lambda e: bool(e) and e["ResolvedRefs"]["status"] == "False")
