"""The Kubernetes source against an API server: what it serves, what it asks for, what it survives."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from epp_client.errors import ApiFault
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import ENDPOINT_SLICE, INFERENCE_POOL, POD, SERVICE
from epp_client.kubernetes.follow.queries import _KEPT, Scope
from epp_client.kubernetes.follow.reflector import Pace
from epp_client.kubernetes.follow.source import KubernetesSource
from epp_client.pool.inference_pool import AppProtocol, FailureMode, PoolName
from epp_client.pool.pods import PodFacts, pod_facts
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from testbed.kubernetes.double import listing, watching
from testbed.kubernetes.watches import Asked
from tests.kubernetes.client import ApiServer
from tests.kubernetes.manifests import endpoint_slice, inference_pool, service

QUICK = Pace(first=0.02, longest=0.1, absent=0.1, settled=0.05)
PATIENCE = 20.0


class Followed:
    """A running source, its store, and a way to wait for what it publishes."""

    def __init__(self, server: ApiServer, source: KubernetesSource, store: PoolStore) -> None:
        self.server = server
        self.source = source
        self.store = store
        self.missing: str | None = None
        self.news = asyncio.Event()

    def listed(self, missing: str) -> None:
        self.missing = missing
        self.news.set()

    def pool(self, name: str = "llama") -> PoolSnapshot | None:
        return self.store.snapshots.get(f"{self.server.namespace}/{name}")

    def ready(self, name: str = "llama") -> list[str]:
        found = self.pool(name)
        return [] if found is None else [endpoint.key for endpoint in found.table.ready]

    def queries(self) -> set[str]:
        """What is followed for pools."""
        return {str(reflector.query) for reflector in self.source._reflectors}

    async def until(self, seen: Callable[[], Any]) -> None:
        """Until a publication after which `seen` holds."""
        async with asyncio.timeout(PATIENCE):
            while not seen():
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def one_of_many(
    server: ApiServer,
    api: KubernetesApi,
    scope: Scope | None = None,
    drain_grace: float = 0.0,
    first_publication: float = 30.0,
    **more: Any,
) -> AsyncIterator[Followed]:
    """A source that follows the test's namespace."""
    store = PoolStore()
    source = KubernetesSource(
        api,
        scope or Scope((server.namespace,)),
        store,
        PoolSettings(drain_grace=drain_grace),
        asyncio.get_running_loop().time,
        lambda missing: followed.listed(missing),
        QUICK,
        first_publication,
        **more,
    )
    followed = Followed(server, source, store)
    task = asyncio.create_task(source.run())
    try:
        yield followed
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def following(
    server: ApiServer, api: KubernetesApi, *arguments: Any, **more: Any
) -> AsyncIterator[Followed]:
    """The same, of which nothing may be left running."""
    async with one_of_many(server, api, *arguments, **more) as followed:
        yield followed
    assert not [t for t in asyncio.all_tasks() if "Reflector" in repr(t.get_coro())]


async def populate(server: ApiServer, name: str = "llama", pods: int = 2) -> None:
    """A pool with Pods, and its picker."""
    await server.create(SERVICE, service())
    await server.create(ENDPOINT_SLICE, endpoint_slice("picker", "10.9.0.1"))
    for index in range(pods):
        await server.pod(f"{name}-{index}", {"app": name}, f"10.0.0.{index + 1}")
    await server.create(INFERENCE_POOL, inference_pool(name))


async def test_a_pool_is_served_with_its_pods_and_its_picker(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        assert followed.ready() == ["10.0.0.1:8000", "10.0.0.2:8000"]
        found = followed.pool()
        assert found is not None
        assert found.picker is not None
        assert found.picker.addresses == ("10.9.0.1:9002",)
        assert followed.missing == ""
        assert followed.source.stale() == 0


async def test_only_what_pools_refer_to_is_read(api_server: ApiServer, api: KubernetesApi) -> None:
    await populate(api_server)
    double = api_server.double
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
    asked = {
        (a.resource, a.query.get("labelSelector", "") + a.query.get("fieldSelector", ""))
        for a in double.requests
        if a.verb == "list"
    }
    assert asked == {
        (INFERENCE_POOL, ""),
        (POD, "app=llama"),
        (SERVICE, "metadata.name=picker"),
        (ENDPOINT_SLICE, "kubernetes.io/service-name=picker"),
    }
    assert {a.namespace for a in double.requests} == {api_server.namespace}


async def test_pods_come_become_unready_and_go(api_server: ApiServer, api: KubernetesApi) -> None:
    await populate(api_server)
    async with following(api_server, api) as followed:
        await followed.until(lambda: len(followed.ready()) == 2)
        await api_server.pod("late", {"app": "llama"}, "10.0.0.7")
        await followed.until(lambda: "10.0.0.7:8000" in followed.ready())
        await api_server.pod_status("llama-0", "10.0.0.1", ready=False)
        await followed.until(lambda: "10.0.0.1:8000" not in followed.ready())
        await api_server.delete(POD, "llama-1", grace=0)
        await followed.until(lambda: followed.ready() == ["10.0.0.7:8000"])


async def test_an_endpoint_that_stops_being_ready_drains_for_its_grace(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server, pods=1)
    async with following(api_server, api, drain_grace=0.5) as followed:
        await followed.until(followed.ready)
        await api_server.pod_status("llama-0", "10.0.0.1", ready=False)
        await followed.until(lambda: not followed.ready())
        found = followed.pool()
        assert found is not None
        assert list(found.table.by_key) == ["10.0.0.1:8000"]

        def gone() -> bool:
            now = followed.pool()
            return now is not None and not now.table.by_key

        await followed.until(gone)


EDITS: dict[str, tuple[dict[str, Any], Callable[[PoolSnapshot], bool]]] = {
    "targetPorts": (
        {"targetPorts": [{"number": 8001}, {"number": 8002}]},
        lambda s: {e.port for e in s.table.ready} == {8001, 8002},
    ),
    "appProtocol": (
        {"appProtocol": "kubernetes.io/h2c"},
        lambda s: s.pool.app_protocol is AppProtocol.H2C,
    ),
    "failureMode": (
        {"endpointPickerRef": {"failureMode": "FailOpen"}},
        lambda s: s.pool.failure_mode is FailureMode.FAIL_OPEN,
    ),
    "selector": (
        {"selector": {"matchLabels": {"app": None, "tier": "new"}}},
        lambda s: [e.key for e in s.table.ready] == ["10.0.0.50:8000"],
    ),
    "picker": (
        {"endpointPickerRef": {"name": "other"}},
        lambda s: s.picker is not None and s.picker.addresses == ("10.9.0.2:9002",),
    ),
    "no picker": ({"endpointPickerRef": None}, lambda s: s.picker is None),
}


@pytest.mark.parametrize("what", EDITS)
async def test_an_edit_takes_effect_and_never_leaves_the_pool_without_endpoints(
    api_server: ApiServer, api: KubernetesApi, what: str
) -> None:
    await populate(api_server)
    await api_server.pod("new", {"tier": "new"}, "10.0.0.50")
    await api_server.create(SERVICE, service("other"))
    await api_server.create(ENDPOINT_SLICE, endpoint_slice("other", "10.9.0.2"))
    patch, seen = EDITS[what]
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        smallest = 99

        def watch_size(_: object) -> None:
            nonlocal smallest
            smallest = min(smallest, len(followed.ready()))

        followed.store.subscribe(watch_size)
        await api_server.patch(INFERENCE_POOL, "llama", {"spec": patch})

        def done() -> bool:
            found = followed.pool()
            return found is not None and seen(found)

        await followed.until(done)
        assert smallest >= 1
        if what == "selector":
            assert not any("app=llama" in query for query in followed.queries())


async def test_an_edit_of_an_edit_that_was_never_listed_leaves_nothing_followed(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    await api_server.pod("new", {"tier": "new"}, "10.0.0.50")
    double = api_server.double
    double.fail(lambda a: listing(POD)(a) and "wrong" in a.query["labelSelector"], hang=True)
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        for tier in ("wrong", "new"):
            labels = {"app": None, "tier": tier}
            await api_server.patch(
                INFERENCE_POOL, "llama", {"spec": {"selector": {"matchLabels": labels}}}
            )
            await followed.until(lambda t=tier: f"tier={t}" in str(followed.queries()))  # type: ignore[misc]
            assert followed.ready()
        await followed.until(lambda: followed.ready() == ["10.0.0.50:8000"])
        assert [query for query in followed.queries() if "pods" in query] == [
            f"pods in {api_server.namespace} (tier=new)"
        ]


async def test_an_edit_that_is_taken_back_before_it_took_effect_leaves_no_watch(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    double = api_server.double

    def of(name: str) -> Callable[[Asked], bool]:
        return lambda asked: asked.query.get("fieldSelector") == f"metadata.name={name}"

    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        for name in ("b", "c"):
            double.fail(of(name), times=1e9, code=500)
            edit = {"spec": {"endpointPickerRef": {"name": name}}}
            await api_server.patch(INFERENCE_POOL, "llama", edit)
            await followed.until(lambda n=name: f"metadata.name={n}" in str(followed.queries()))  # type: ignore[misc]
        edit = {"spec": {"endpointPickerRef": {"name": "picker"}}}
        await api_server.patch(INFERENCE_POOL, "llama", edit)
        await followed.until(lambda: not followed.missing)
        assert len(followed.queries()) == 3
        assert followed.source.failures() == []


async def test_an_invalid_edit_keeps_the_last_valid_pool_and_is_reported(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        bad = {"metadata": {"annotations": {"epp-client.dev/pick-timeout": "soon"}}}
        await api_server.patch(INFERENCE_POOL, "llama", bad)
        await followed.until(lambda: "soon" in str(followed.store.problems))
        assert followed.ready()
        ports = [{"number": 8000}, {"number": 8000}]
        # A real server's schema refuses it, and then there is nothing to be seen here.
        if api_server.faulty is not None:
            await api_server.patch(INFERENCE_POOL, "llama", {"spec": {"targetPorts": ports}})
            await followed.until(lambda: "is a duplicate" in str(followed.store.problems))
            assert "the last valid version is served" in str(followed.store.problems)
            assert followed.ready()


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"type": "ExternalName", "externalName": "e.example", "ports": None}, "ExternalName"),
        ({"ports": [{"name": "grpc", "port": 1, "protocol": "TCP"}]}, "has no port 9002"),
    ],
)
async def test_a_picker_service_that_cannot_be_used_is_reported(
    api_server: ApiServer, api: KubernetesApi, spec: dict[str, Any], problem: str
) -> None:
    await api_server.pod("llama-0", {"app": "llama"}, "10.0.0.1")
    await api_server.create(INFERENCE_POOL, inference_pool("llama"))
    async with following(api_server, api) as followed:
        await followed.until(lambda: "does not exist" in str(followed.store.problems))
        await api_server.create(SERVICE, service(**spec))
        await followed.until(lambda: problem in str(followed.store.problems))
        assert followed.ready()


async def test_a_pool_that_goes_is_followed_no_longer(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        await api_server.delete(INFERENCE_POOL, "llama")
        await followed.until(lambda: followed.pool() is None)
        assert not followed.queries()
        await api_server.create(INFERENCE_POOL, inference_pool("llama"))
        await followed.until(followed.ready)


async def test_a_pool_whose_pods_have_not_been_listed_is_not_one_without_pods(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    double = api_server.double
    double.fail(listing(POD), times=1, hang=True)
    async with following(api_server, api, first_publication=0.3) as followed:
        await followed.until(lambda: followed.pool() is not None)
        found = followed.pool()
        assert found is not None
        assert not found.synced
        assert followed.missing is not None
        assert "pods" in followed.missing


async def test_nothing_is_published_before_the_first_publication_is_complete(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    await api_server.create(INFERENCE_POOL, inference_pool("other"))
    double = api_server.double
    double.fail(
        lambda a: listing(POD)(a) and "other" in a.query["labelSelector"], times=3, code=500
    )
    async with following(api_server, api) as followed:
        seen: list[set[str]] = []
        followed.store.subscribe(lambda _: seen.append(set(followed.store.snapshots)))
        await followed.until(lambda: followed.store.synced)
        assert seen[0] == {f"{api_server.namespace}/{name}" for name in ("llama", "other")}
        assert all(snapshot.synced for snapshot in followed.store.snapshots.values())


async def test_the_first_publication_has_its_time_from_the_servers_first_answer(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    """An API server that was away at first says what pools there are before it says what Pods there are."""
    await populate(api_server)
    double = api_server.double
    double.outage()
    double.fail(listing(POD), times=3, code=500)
    async with following(api_server, api, first_publication=1.0) as followed:
        seen: list[bool] = []
        followed.store.subscribe(
            lambda _: seen.extend(s.synced for s in followed.store.snapshots.values())
        )
        # longer than the picture may take
        await asyncio.sleep(1.5)
        double.down = False
        await followed.until(followed.ready)
        assert all(seen)


async def test_what_is_forbidden_is_named_and_holds_up_nothing_else(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    double = api_server.double
    double.forbidden.add(("list", "endpointslices"))
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        found = followed.pool()
        assert found is not None
        assert found.picker is not None
        assert '"list" on "endpointslices"' in (found.picker.problem or "")
        assert followed.missing == ""
        double.forbidden.clear()
        await followed.until(
            lambda: (pool := followed.pool()) and pool.picker and pool.picker.addresses
        )


async def test_a_single_pool_is_asked_for_by_name(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    await api_server.create(INFERENCE_POOL, inference_pool("other"))
    scope = Scope(pools=(PoolName(api_server.namespace, "llama"),))
    async with following(api_server, api, scope) as followed:
        await followed.until(followed.ready)
        assert followed.pool("other") is None


async def test_a_relist_forgets_pods_deleted_while_the_watch_was_down(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    double = api_server.double
    async with following(api_server, api) as followed:
        await followed.until(lambda: len(followed.ready()) == 2)
        double.outage()
        await followed.until(lambda: followed.source.stale() > 0)
        await api_server.delete(POD, "llama-0", grace=0)
        double.objects.compact()
        assert len(followed.ready()) == 2
        double.mend()
        await followed.until(lambda: followed.ready() == ["10.0.0.2:8000"])


@pytest.mark.parametrize("as_status", [False, True], ids=["error event", "http status"])
async def test_a_forgotten_version_is_listed_anew(
    api_server: ApiServer, api: KubernetesApi, as_status: bool
) -> None:
    await populate(api_server)
    double = api_server.double
    double.gone_as_status = as_status
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        before = double.count("list", POD)
        double.expire_watches()
        await api_server.pod("late", {"app": "llama"}, "10.0.0.7")
        await followed.until(lambda: "10.0.0.7:8000" in followed.ready())
        assert double.count("list", POD) == before + 1
        assert followed.source.asked.faults[ApiFault.GONE] >= 1


async def test_a_broken_watch_goes_on_without_a_new_list(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    double = api_server.double
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        lists = double.count("list")
        double.cut_watches()
        await api_server.pod("late", {"app": "llama"}, "10.0.0.7")
        await followed.until(lambda: "10.0.0.7:8000" in followed.ready())
        assert double.count("list") == lists


async def test_an_outage_keeps_the_last_state_and_says_how_old_it_is(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    double = api_server.double
    async with following(api_server, api) as followed:
        await followed.until(lambda: len(followed.ready()) == 2)
        lists = double.count("list")
        double.outage()
        await followed.until(lambda: followed.source.stale() > 0)
        assert followed.missing == ""
        assert len(followed.ready()) == 2
        assert any("does not answer" in str(e) for e in followed.source.failures())
        double.mend()
        await followed.until(lambda: followed.source.stale() == 0)
        assert followed.source.failures() == []
        # a watch from the last version is enough
        assert double.count("list") == lists


async def test_many_who_find_the_server_again_ask_for_each_watch_once_and_list_nothing(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    double, sidecars = api_server.double, 20
    async with AsyncExitStack() as owner:
        fleet = [
            await owner.enter_async_context(one_of_many(api_server, api)) for _ in range(sidecars)
        ]
        for followed in fleet:
            await followed.until(lambda f=followed: len(f.ready()) == 2)  # type: ignore[misc]
        double.outage()
        for followed in fleet:
            await followed.until(lambda f=followed: len(f.source.failures()) == 4)  # type: ignore[misc]
        double.requests.clear()
        double.mend()
        for followed in fleet:
            await followed.until(lambda f=followed: f.source.stale() == 0)  # type: ignore[misc]
        watched = (INFERENCE_POOL, POD, SERVICE, ENDPOINT_SLICE)
        assert double.counts() == {("watch", kind.plural): sidecars for kind in watched}


async def test_a_failing_server_is_asked_less_and_less(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await populate(api_server)
    double = api_server.double
    double.fail(watching(POD), times=8, code=500)
    async with following(api_server, api) as followed:
        await followed.until(followed.ready)
        await followed.until(lambda: followed.source.asked.faults[ApiFault.OTHER] >= 8)
        await followed.until(lambda: followed.source.stale() == 0)
        await api_server.pod("late", {"app": "llama"}, "10.0.0.7")
        await followed.until(lambda: "10.0.0.7:8000" in followed.ready())


async def test_an_object_that_nobody_foresaw_is_reported_and_the_rest_goes_on(
    api_server: ApiServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts(pod: Mapping[str, Any]) -> PodFacts:
        if pod["metadata"]["name"] == "odd":
            raise ValueError("odd")
        return pod_facts(pod)

    monkeypatch.setitem(_KEPT, POD.kind, facts)
    await populate(api_server)
    async with following(api_server, api) as followed:
        await followed.until(lambda: len(followed.ready()) == 2)
        await api_server.pod("odd", {"app": "llama"}, "10.0.0.8")
        await followed.until(lambda: followed.source.asked.faults[ApiFault.OTHER])
        await api_server.pod("late", {"app": "llama"}, "10.0.0.7")
        await followed.until(lambda: "10.0.0.7:8000" in followed.ready())


async def test_without_the_kind_nothing_is_served_until_it_is_there(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    double = api_server.double
    double.objects.uninstall(INFERENCE_POOL)
    async with following(api_server, api) as followed:
        await followed.until(
            lambda: followed.missing and "is its CRD installed?" in followed.missing
        )
        assert not followed.store.synced
        double.objects.install(INFERENCE_POOL)
        await populate(api_server)
        await followed.until(followed.ready)
        assert followed.missing == ""
