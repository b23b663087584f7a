"""A pool that options give: its Pods by a label selector, without an InferencePool in the cluster."""

import asyncio
import sys
from asyncio import create_subprocess_exec, subprocess
from pathlib import Path
from typing import Any

import pytest

from epp_client import lookups
from epp_client.cli.pick import read_snapshot
from epp_client.errors import SettingsError
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import ENDPOINT_SLICE, INFERENCE_POOL, POD, SERVICE
from epp_client.kubernetes.follow.given import given_pool
from epp_client.pool.inference_pool import AppProtocol, FailureMode, InferencePool, PoolName
from epp_client.pool.settings import PoolSettings
from epp_client.settings import EndpointSettings, SourceSettings, valid
from tests.kubernetes.client import ApiServer
from tests.kubernetes.manifests import endpoint_slice, service
from tests.kubernetes.test_serve import page, serving
from tests.kubernetes.test_source import Followed, following, populate

SELECTOR = "app=vllm,tier in (a, b),!canary"


def settings(namespace: str, **more: Any) -> EndpointSettings:
    values = {
        "endpoint_selector": SELECTOR,
        "endpoint_target_ports": "8000,8001",
        "pool_name": f"{namespace}/llama",
        **more,
    }
    return EndpointSettings.model_validate(values)


def given(server: ApiServer, drain_grace: float = 0.0, **more: Any) -> InferencePool:
    defaults = PoolSettings(drain_grace=drain_grace)
    return given_pool(settings(server.namespace, **more), defaults, None)


def addresses(followed: Followed) -> tuple[str, ...]:
    pool = followed.pool()
    assert pool is not None
    assert pool.picker is not None
    return pool.picker.addresses


def test_the_options_are_the_pool() -> None:
    more = {"picker": "[fd00::1]:9002", "failure_mode": "FailOpen"}
    pool = given_pool(
        settings("prod", app_protocol="kubernetes.io/h2c", **more), PoolSettings(), "gateway"
    )
    assert pool.name == PoolName("prod", "llama")
    assert (pool.selector, pool.target_ports) == (SELECTOR, (8000, 8001))
    assert (pool.app_protocol, pool.failure_mode) == (AppProtocol.H2C, FailureMode.FAIL_OPEN)


@pytest.mark.parametrize(("own", "namespace"), [("gateway", "gateway"), (None, "default")])
def test_the_pods_are_in_our_own_namespace_by_default(own: str | None, namespace: str) -> None:
    values = EndpointSettings(endpoint_selector="a=b", endpoint_target_ports=(1,))
    assert given_pool(values, PoolSettings(), own).name == PoolName(namespace, "default")


async def test_the_selected_pods_are_followed(api_server: ApiServer, api: KubernetesApi) -> None:
    labels = {"app": "vllm", "tier": "a"}
    await api_server.pod("one", labels, "10.0.0.1")
    await api_server.pod("two", {**labels, "tier": "b"}, "10.0.0.2")
    await api_server.pod("other", {**labels, "tier": "c"}, "10.0.0.3")
    await api_server.pod("canary", {**labels, "canary": ""}, "10.0.0.4")
    async with following(api_server, api, given=given(api_server, drain_grace=60)) as followed:
        await followed.until(lambda: len(followed.ready()) == 4)
        assert followed.ready() == [f"10.0.0.{n}:{port}" for n in (1, 2) for port in (8000, 8001)]
        assert followed.missing == ""
        pool = followed.pool()
        assert pool is not None
        assert pool.picker is None
        await api_server.pod("three", labels, "10.0.0.5")
        await followed.until(lambda: len(followed.ready()) == 6)
        await api_server.pod_status("one", "10.0.0.1", ready=False)
        await followed.until(lambda: len(followed.ready()) == 4)
        # A label moves, and no longer matches.
        await api_server.patch(POD, "two", {"metadata": {"labels": {"tier": "c"}}})
        await followed.until(lambda: len(followed.ready()) == 2)
        pool = followed.pool()
        assert pool is not None
        assert pool.table.draining == 4


async def test_only_the_pods_are_read(api_server: ApiServer, api: KubernetesApi) -> None:
    double = api_server.double
    await api_server.pod("one", {"app": "vllm", "tier": "a"}, "10.0.0.1")
    double.objects.uninstall(INFERENCE_POOL)
    pool = given(api_server, picker="10.9.0.1:9002")
    async with following(api_server, api, given=pool) as followed:
        await followed.until(followed.ready)
        assert addresses(followed) == ("10.9.0.1:9002",)
    assert {(asked.verb, asked.resource) for asked in double.requests} <= {
        ("list", POD),
        ("watch", POD),
    }


async def test_a_picker_is_a_service_of_any_namespace(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await api_server.pod("one", {"app": "vllm", "tier": "a"}, "10.0.0.1")
    pool = given(api_server, picker=f"{api_server.namespace}/picker:9002", pool_name="elsewhere/x")
    async with following(api_server, api, given=pool) as followed:

        def problems() -> list[str]:
            return [*map(str, followed.store.problems)]

        missing = f"Service {api_server.namespace}/picker does not exist"
        await followed.until(lambda: problems() == [f"InferencePool elsewhere/x picker: {missing}"])
        await api_server.create(SERVICE, service())
        await api_server.create(ENDPOINT_SLICE, endpoint_slice("picker", "10.9.0.1", "10.9.0.2"))
        await followed.until(lambda: not problems())
        picker = followed.store.snapshots["elsewhere/x"].picker
        assert picker is not None
        assert picker.addresses == ("10.9.0.1:9002", "10.9.0.2:9002")
        assert picker.server_name == f"picker.{api_server.namespace}.svc"


async def test_the_host_of_a_picker_is_looked_up_before_anything_is_published(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await api_server.pod("one", {"app": "vllm", "tier": "a"}, "10.0.0.1")
    seen: list[bool] = []

    async def look_up(host: str) -> tuple[str, ...]:
        assert host == "epp.internal"
        # The Pods are there long before.
        await followed.until(lambda: "not looked up yet" in (followed.missing or ""))
        seen.append(followed.store.synced)
        return ("10.9.0.1", "10.9.0.2")

    pool = given(api_server, picker="epp.internal:9002")
    async with following(api_server, api, given=pool, look_up=look_up) as followed:
        await followed.until(followed.ready)
        assert addresses(followed) == ("10.9.0.1:9002", "10.9.0.2:9002")
    assert seen == [False]


async def test_the_host_of_a_picker_is_looked_up_again(
    api_server: ApiServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "INTERVAL", 0.01)
    monkeypatch.setattr(lookups, "RETRY", 0.01)
    await api_server.pod("one", {"app": "vllm", "tier": "a"}, "10.0.0.1")
    answers: list[tuple[str, ...]] = [("10.9.0.1",)]

    async def look_up(_: str) -> tuple[str, ...]:
        return answers[-1]

    pool = given(api_server, picker="epp.internal:9002")
    async with following(api_server, api, given=pool, look_up=look_up) as followed:
        await followed.until(followed.ready)
        assert addresses(followed) == ("10.9.0.1:9002",)
        answers.append(("10.9.0.2",))
        await followed.until(lambda: addresses(followed) == ("10.9.0.2:9002",))
        # A failed lookup keeps the last addresses.
        answers.append(())
        await api_server.pod("two", {"app": "vllm", "tier": "a"}, "10.0.0.2")
        await followed.until(lambda: len(followed.ready()) == 4)
        assert addresses(followed) == ("10.9.0.2:9002",)


async def test_pods_that_cannot_be_read_are_not_no_pods(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    double = api_server.double
    await api_server.pod("one", {"app": "vllm", "tier": "a"}, "10.0.0.1")
    double.outage()
    pool = given(api_server)
    async with following(api_server, api, given=pool, first_publication=0.1) as followed:
        await followed.until(lambda: followed.source.failures())
        assert not followed.store.synced
        assert not followed.source.listed
        double.mend()
        double.forbidden.add(("list", "pods"))
        await followed.until(lambda: 'RBAC verb "list" on "pods"' in (followed.missing or ""))
        await followed.until(lambda: followed.pool() is not None)
        found = followed.pool()
        assert found is not None
        assert not found.synced
        double.forbidden.clear()
        await followed.until(followed.ready)
        assert followed.source.listed


async def test_the_last_known_pods_serve_while_the_server_is_away(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await api_server.pod("one", {"app": "vllm", "tier": "a"}, "10.0.0.1")
    async with following(api_server, api, given=given(api_server)) as followed:
        await followed.until(followed.ready)
        memory = followed.source.memory()
    api_server.double.outage()
    async with following(api_server, api, given=given(api_server)) as followed:
        await followed.until(lambda: followed.source.failures())
        followed.source.recall(memory)
        await followed.until(followed.ready)
        assert followed.source.stale()


async def test_serve_and_pick_need_no_crd_and_no_right_to_it(
    api_server: ApiServer, tmp_path: Path
) -> None:
    double, namespace = api_server.double, api_server.namespace
    double.objects.uninstall(INFERENCE_POOL)
    double.forbidden |= {(verb, "inferencepools") for verb in ("get", "list", "watch")}
    await api_server.pod("one", {"app": "vllm"}, "10.0.0.1")
    options = [
        *("--kubernetes", "--kubeconfig", str(api_server.kubeconfig)),
        *("--endpoint-selector", "app=vllm", "--endpoint-target-ports", "8000,8001"),
        *("--pool-name", f"{namespace}/llama"),
    ]
    async with serving(tmp_path, *options) as admin:
        assert await page(admin, "/readyz", "ok") == "200 ok\n"
        said = await page(admin, "/pools", "10.0.0.1:8001")
        assert '"endpointSelector": "app=vllm"' in said
        assert '"10.0.0.1:8000"' in said
    pick = await create_subprocess_exec(
        *(sys.executable, "-m", "epp_client", "pick", f"{namespace}/llama", *options),
        *("--picker", "127.0.0.1:1", "--picker-tls", "plaintext"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = (await pick.communicate())[0].decode()
    assert pick.returncode == 1
    assert "127.0.0.1:1" in said
    assert "picker_unreachable" in said


async def test_pick_names_the_right_that_is_missing(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_server.double.forbidden.add(("list", "pods"))
    values = valid(
        SourceSettings,
        {
            "kubernetes": {"kubeconfig": api_server.kubeconfig},
            "endpoints": {"endpoint_selector": "app=vllm", "endpoint_target_ports": "8000"},
        },
    )
    monkeypatch.setattr(sys.modules["epp_client.cli.pick"], "LIST_TIMEOUT", 1.0)
    with pytest.raises(SettingsError, match=r'cannot be read: .* RBAC verb "list" on "pods"'):
        # It has an event loop of its own.
        await asyncio.to_thread(read_snapshot, "default/default", values, PoolSettings())


# --- the picker of an InferencePool ---


async def test_a_given_picker_takes_the_place_of_the_service_of_the_pool(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    """As of llm-d's chart, whose proxy may read Pods and InferencePools, and no Service."""
    await populate(api_server, pods=1)
    double = api_server.double

    async def look_up(host: str) -> tuple[str, ...]:
        return {"epp.internal": ("10.9.0.7",)}[host]

    at = ("epp.internal", 9002)
    async with following(api_server, api, picker=at, look_up=look_up) as followed:
        await followed.until(followed.ready)
        assert addresses(followed) == ("10.9.0.7:9002",)
        pool = followed.pool()
        assert pool is not None
        before = pool.pool.failure_mode
        other = next(mode for mode in FailureMode if mode is not before)
        change = {"spec": {"endpointPickerRef": {"failureMode": other}}}
        await api_server.patch(INFERENCE_POOL, "llama", change)
        await followed.until(
            lambda: (found := followed.pool()) is not None and found.pool.failure_mode is other
        )
        assert addresses(followed) == ("10.9.0.7:9002",)
        assert [*followed.store.problems] == []
    assert {asked.resource for asked in double.requests if asked.verb in ("list", "watch")} == {
        INFERENCE_POOL,
        POD,
    }
