"""Our client against an API server: what it asks for, what it makes of the answers."""

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from epp_client.errors import ApiError, ApiFault, SettingsError
from epp_client.kubernetes.client.access import Access
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import (
    HTTP_ROUTE,
    INFERENCE_POOL,
    LEASE,
    POD,
    SERVICE,
    Resource,
)
from epp_client.kubernetes.client.watch import Event
from testbed.kubernetes.double import listing, watching
from tests.kubernetes.client import ApiServer
from tests.kubernetes.manifests import inference_pool, service


async def test_pages_show_the_state_of_the_first_page(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    for index in range(5):
        await api_server.pod(f"p{index}", {"app": "a"}, f"10.0.0.{index + 1}")
    namespace = api_server.namespace
    first = await api.list_page(POD, namespace, label_selector="app=a", limit=2)
    await api_server.delete(POD, "p4", grace=0)
    await api_server.pod("p9", {"app": "a"}, "10.0.0.9")
    names = [item["metadata"]["name"] for item in first.items]
    page = first
    while page.next:
        page = await api.list_page(POD, namespace, label_selector="app=a", limit=2, next=page.next)
        names += [item["metadata"]["name"] for item in page.items]
        assert page.resource_version == first.resource_version
    assert names == ["p0", "p1", "p2", "p3", "p4"]


async def test_a_watch_tells_what_came_after_its_version(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await api_server.pod("old", {"app": "a"}, "10.0.0.1")
    page = await api.list_page(POD, api_server.namespace)
    await api_server.pod("new", {"app": "a"}, "10.0.0.2")
    await api_server.delete(POD, "old", grace=0)
    version = page.resource_version
    async with api.watch(POD, api_server.namespace, resource_version=version) as stream:
        found = [await anext(stream) for _ in range(4)]
    assert [(event.type, event.object["metadata"]["name"]) for event in found] == [
        ("ADDED", "new"),
        ("MODIFIED", "new"),
        # it terminates first, however short its grace period is
        ("MODIFIED", "old"),
        ("DELETED", "old"),
    ]
    assert "deletionTimestamp" in found[2].object["metadata"]


async def test_leaving_the_selection_is_a_deletion(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await api_server.pod("p", {"app": "a"}, "10.0.0.1")
    page = await api.list_page(POD, api_server.namespace, label_selector="app=a")
    async with api.watch(
        POD,
        api_server.namespace,
        resource_version=page.resource_version,
        label_selector="app=a",
    ) as stream:
        await api_server.patch(POD, "p", {"metadata": {"labels": {"app": "b"}}})
        assert (await anext(stream)).type == "DELETED"
        await api_server.patch(POD, "p", {"metadata": {"labels": {"app": "a"}}})
        assert (await anext(stream)).type == "ADDED"


async def test_a_watch_ends_when_its_time_is_up(api_server: ApiServer, api: KubernetesApi) -> None:
    version = (await api.list_page(POD, api_server.namespace)).resource_version
    async with api.watch(POD, api_server.namespace, resource_version=version, timeout=1) as stream:
        assert [event.type async for event in stream if event.type != "BOOKMARK"] == []


@pytest.mark.parametrize("as_status", [True, False], ids=["HTTP 410", "ERROR event"])
async def test_a_forgotten_version_is_gone_in_both_shapes(
    api_server: ApiServer, api: KubernetesApi, as_status: bool
) -> None:
    version = (await api.list_page(POD, api_server.namespace)).resource_version
    api_server.double.gone_as_status = as_status
    api_server.double.objects.compact()
    with pytest.raises(ApiError) as caught:
        async with api.watch(POD, api_server.namespace, resource_version=version) as stream:
            await anext(stream)
    assert caught.value.fault is ApiFault.GONE


async def test_a_continue_token_can_expire(api_server: ApiServer, api: KubernetesApi) -> None:
    for index in range(3):
        await api_server.pod(f"p{index}", {"app": "a"}, "10.0.0.1")
    page = await api.list_page(POD, api_server.namespace, limit=1)
    api_server.double.objects.compact()
    with pytest.raises(ApiError) as caught:
        await api.list_page(POD, api_server.namespace, limit=1, next=page.next)
    assert caught.value.fault is ApiFault.GONE


async def test_bookmarks_move_the_version(api_server: ApiServer, api: KubernetesApi) -> None:
    version = (await api.list_page(POD, api_server.namespace)).resource_version
    async with api.watch(POD, api_server.namespace, resource_version=version) as stream:
        await api_server.create(SERVICE, service())
        api_server.double.bookmark()
        event = await anext(stream)
    assert event.type == "BOOKMARK"
    assert int(event.object["metadata"]["resourceVersion"]) > int(version)


async def test_replace_of_an_old_version_is_a_conflict(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    namespace = api_server.namespace
    lease: dict[str, Any] = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}}
    lease |= {"apiVersion": LEASE.api_version, "kind": "Lease"}
    made = await api.create(LEASE, lease, namespace)
    with pytest.raises(ApiError) as caught:
        await api.create(LEASE, lease, namespace)
    assert caught.value.fault is ApiFault.CONFLICT
    changed = {**made, "spec": {"holderIdentity": "b"}}
    await api.replace(LEASE, "l", changed, namespace)
    with pytest.raises(ApiError) as caught:
        await api.replace(LEASE, "l", {**made, "spec": {"holderIdentity": "c"}}, namespace)
    assert caught.value.fault is ApiFault.CONFLICT
    assert (await api.get(LEASE, "l", namespace))["spec"]["holderIdentity"] == "b"


async def test_status_is_written_through_its_subresource_and_leaves_the_generation(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    namespace = api_server.namespace
    made = await api_server.create(INFERENCE_POOL, inference_pool("llama"))
    ref = {"name": "gw", "namespace": namespace}
    parent = {
        "parentRef": ref,
        "controllerName": "epp-client.dev/gateway",
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": 1,
            }
        ],
    }
    patch = {
        "apiVersion": INFERENCE_POOL.api_version,
        "kind": "InferencePool",
        "status": {"parents": [parent]},
    }
    await api.patch(INFERENCE_POOL, "llama", patch, namespace, subresource="status")
    found = await api.get(INFERENCE_POOL, "llama", namespace)
    assert found["status"]["parents"][0]["controllerName"] == "epp-client.dev/gateway"
    assert found["metadata"]["generation"] == made["metadata"]["generation"] == 1
    # And the other way round: the main resource does not write status.
    await api.patch(INFERENCE_POOL, "llama", {"status": {"parents": []}}, namespace)
    spec = {"spec": {"targetPorts": [{"number": 9000}]}}
    after = await api.patch(INFERENCE_POOL, "llama", spec, namespace)
    assert after["status"]["parents"]
    assert after["metadata"]["generation"] == 2


async def test_a_write_that_changes_nothing_is_none(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    made = await api_server.create(SERVICE, service())
    same = await api.patch(SERVICE, "picker", {"metadata": {"labels": None}}, api_server.namespace)
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_a_running_pod_terminates_before_it_goes(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await api_server.pod("p", {"app": "a"}, "10.0.0.1", node="n")
    await api_server.delete(POD, "p")
    found = await api.get(POD, "p", api_server.namespace)
    assert found["metadata"]["deletionTimestamp"]
    await api_server.delete(POD, "p", grace=0)
    with pytest.raises(ApiError) as caught:
        await api.get(POD, "p", api_server.namespace)
    assert caught.value.fault is ApiFault.NOT_FOUND
    assert f"cannot get pods p in namespace {api_server.namespace}" in str(caught.value)


async def test_a_kind_without_its_crd_is_named(api_server: ApiServer, api: KubernetesApi) -> None:
    absent = Resource("inference.networking.k8s.io", "v9", "inferencepools", "InferencePool")
    with pytest.raises(ApiError, match="is its CRD installed") as caught:
        await api.list_page(absent, api_server.namespace)
    assert caught.value.fault is ApiFault.NOT_FOUND


async def test_a_crd_that_comes_later_is_served(api_server: ApiServer, api: KubernetesApi) -> None:
    api_server.double.objects.uninstall(HTTP_ROUTE)
    with pytest.raises(ApiError) as caught:
        await api.list_page(HTTP_ROUTE)
    assert caught.value.fault is ApiFault.NOT_FOUND
    api_server.double.objects.install(HTTP_ROUTE)
    assert (await api.list_page(HTTP_ROUTE)).items == []


async def test_forbidden_names_the_missing_verb(api_server: ApiServer, api: KubernetesApi) -> None:
    api_server.double.forbidden.add(("patch", "inferencepools/status"))
    await api_server.create(INFERENCE_POOL, inference_pool("llama"))
    with pytest.raises(ApiError) as caught:
        await api.patch(
            INFERENCE_POOL, "llama", {"status": {}}, api_server.namespace, subresource="status"
        )
    assert caught.value.fault is ApiFault.FORBIDDEN
    assert str(caught.value) == (
        f"cannot patch inferencepools.inference.networking.k8s.io/status llama in namespace"
        f' {api_server.namespace}: "system:serviceaccount:gateway:epp-client" needs the RBAC verb'
        f' "patch" on "inferencepools/status", apiGroup "inference.networking.k8s.io", in'
        f' namespace "{api_server.namespace}"'
    )


async def test_an_expired_token_is_read_anew(api_server: ApiServer, tmp_path: Path) -> None:
    double = api_server.double
    double.tokens = {"secret-1"}
    file = double.kubeconfig(tmp_path / "tokens", "secret-1")
    api = KubernetesApi(Access(file))
    await api.open()
    await api.list_page(POD)
    double.tokens = {"secret-2"}
    with pytest.raises(ApiError) as caught:
        await api.list_page(POD)
    assert caught.value.fault is ApiFault.UNAUTHORIZED
    assert "secret" not in str(caught.value)
    file.with_suffix(".token").write_text("secret-2\n")
    before = len(double.requests)
    await asyncio.gather(*(api.list_page(POD) for _ in range(5)))
    tokens = [asked.authorization for asked in double.requests[before:]]
    assert set(tokens) == {"Bearer secret-1", "Bearer secret-2"}
    await api.close()


async def test_throttling_says_how_long(api_server: ApiServer, api: KubernetesApi) -> None:
    api_server.double.fail(listing(POD), code=429, headers={"retry-after": "7"})
    with pytest.raises(ApiError) as caught:
        await api.list_page(POD)
    assert (caught.value.fault, caught.value.retry_after) == (ApiFault.THROTTLED, 7.0)


@pytest.mark.parametrize(
    ("code", "fault"),
    [(0, ApiFault.UNREACHABLE), (500, ApiFault.OTHER), (503, ApiFault.UNREACHABLE)],
)
async def test_other_failures(
    api_server: ApiServer, api: KubernetesApi, code: int, fault: ApiFault
) -> None:
    api_server.double.fail(listing(POD), code=code, times=math.inf)
    with pytest.raises(ApiError) as caught:
        await api.list_page(POD)
    assert caught.value.fault is fault
    api_server.double.mend()
    assert (await api.list_page(POD)).items == []


async def test_a_watch_that_breaks_off_is_unreachable(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    version = (await api.list_page(POD)).resource_version
    async with api.watch(POD, resource_version=version) as stream:
        api_server.double.cut_watches()
        with pytest.raises(ApiError) as caught:
            await anext(stream)
    assert caught.value.fault is ApiFault.UNREACHABLE


async def test_a_silent_watch_is_dead(api_server: ApiServer, api: KubernetesApi) -> None:
    version = (await api.list_page(POD)).resource_version
    async with api.watch(POD, resource_version=version, idle_timeout=0.2) as stream:
        api_server.double.mute_watches()
        with pytest.raises(ApiError, match=r"silent for 0\.2 s") as caught:
            await anext(stream)
    assert caught.value.fault is ApiFault.UNREACHABLE


async def test_an_endless_event_is_refused(
    api_server: ApiServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epp_client.kubernetes.client.watch.MAX_EVENT", 100_000)
    version = (await api.list_page(POD)).resource_version
    async with api.watch(POD, resource_version=version) as stream:
        container = {"name": "c", "image": "example.com/i"}
        note = {"note": "x" * 200_000}
        made = {"metadata": {"name": "big", "annotations": note}}
        await api_server.create(POD, made | {"spec": {"containers": [container]}})
        with pytest.raises(ApiError, match="more than 100000 bytes"):
            await anext(stream)


async def test_events_larger_than_a_chunk_come_whole(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    version = (await api.list_page(POD, api_server.namespace)).resource_version
    async with api.watch(POD, api_server.namespace, resource_version=version) as stream:
        container = {"name": "c", "image": "example.com/i"}
        for index in range(3):
            note = {"note": f"{index}" * 150_000}
            made = {"metadata": {"name": f"p{index}", "annotations": note}}
            await api_server.create(POD, made | {"spec": {"containers": [container]}})
        found: list[Event] = [await anext(stream) for _ in range(3)]
    notes = [event.object["metadata"]["annotations"]["note"] for event in found]
    assert notes == [f"{index}" * 150_000 for index in range(3)]


async def test_a_refused_watch_is_raised_where_it_is_entered(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    api_server.double.fail(watching(POD), code=500)
    with pytest.raises(ApiError):
        async with api.watch(POD, resource_version="1"):
            pytest.fail("it was entered")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("{", "not a usable kubeconfig"),
        ("current-context: x", "kubeconfig"),
        ("users: [{name: u, user: {token: secret}]", "not a usable kubeconfig"),
    ],
)
async def test_an_unusable_kubeconfig_is_a_setting_to_mend(
    tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError, match=said) as caught:
        await KubernetesApi(Access(file)).open()
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value)
