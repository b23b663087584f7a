"""What the statuses of a Gateway, its class, its routes and its pools say, from objects to writes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import (
    GATEWAY,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    INFERENCE_POOL,
    SERVICE,
)
from epp_client.kubernetes.status.acknowledgement import Acknowledgement
from epp_client.kubernetes.status.report import WriteResult
from epp_client.settings import DEFAULT_CONTROLLER
from testbed.kubernetes.patches import Object
from tests.kubernetes.client import ApiServer
from tests.kubernetes.gateway_rig import (
    class_name,
    following,
    make_class,
    make_gateway,
    make_route,
    to_pool,
    to_service,
)
from tests.kubernetes.manifests import inference_pool, service


@pytest.fixture
async def server(api_server: ApiServer) -> AsyncIterator[ApiServer]:
    """With a GatewayClass of ours, the Gateway `edge`, the pool `llama` and the Service `web`."""
    await make_class(api_server)
    await make_gateway(api_server)
    await api_server.create(INFERENCE_POOL, inference_pool("llama", picker=None))
    await api_server.create(SERVICE, service("web"))
    yield api_server
    await api_server.delete(GATEWAY_CLASS, class_name(api_server))


def said(entry: Object, type: str) -> tuple[str, str, int]:
    found = next((c for c in entry.get("conditions", ()) if c["type"] == type), None)
    if found is None:
        return "", "", 0
    return found["status"], found["reason"], found.get("observedGeneration", 0)


def ours(status: Object) -> list[Any]:
    parents = status.get("parents") or ()
    return [e for e in parents if e["controllerName"] == DEFAULT_CONTROLLER]


async def test_all_that_is_served_is_said(server: ApiServer, api: KubernetesApi) -> None:
    await make_route(server, "chat", "/chat", to_pool("llama"), sectionName="http")
    async with following(server, api, gateway_addresses=("10.1.1.1", "gw.example.com")) as rig:
        found = await rig.status(
            GATEWAY, "edge", lambda s: said(s, "Programmed") == ("True", "Programmed", 1)
        )
        assert said(found, "Accepted") == ("True", "Accepted", 1)
        assert found["addresses"] == [
            {"type": "IPAddress", "value": "10.1.1.1"},
            {"type": "Hostname", "value": "gw.example.com"},
        ]
        (listener,) = found["listeners"]
        assert listener["attachedRoutes"] == 1
        assert [kind["kind"] for kind in listener["supportedKinds"]] == ["HTTPRoute"]
        route = await rig.status(HTTP_ROUTE, "chat", ours)
        (entry,) = ours(route)
        assert entry["parentRef"]["sectionName"] == "http"
        assert said(entry, "Accepted") == ("True", "Accepted", 1)
        assert said(entry, "ResolvedRefs") == ("True", "ResolvedRefs", 1)
        found = await rig.status(GATEWAY_CLASS, class_name(server), lambda s: s.get("conditions"))
        assert said(found, "Accepted") == ("True", "Accepted", 1)
        assert said(found, "SupportedVersion") == ("True", "SupportedVersion", 1)
        pool = await rig.status(
            INFERENCE_POOL, "llama", lambda s: ours(s) and said(ours(s)[0], "Accepted")[0] == "True"
        )
        assert ours(pool)[0]["parentRef"]["name"] == "edge"


async def test_a_state_that_rests_is_not_written_again(
    server: ApiServer, api: KubernetesApi
) -> None:
    await make_route(server, "home", "/home", to_service("web"))
    async with following(server, api) as rig:
        await rig.status(GATEWAY, "edge", lambda s: said(s, "Programmed")[0] == "True")
        await rig.status(HTTP_ROUTE, "home", ours)
        await asyncio.sleep(0.3)
        count = rig.results.count(WriteResult.WRITTEN)
        # The class, the Gateway, the route: one write each.
        assert count == 3
        rig.gateway.source.wake()  # type: ignore[union-attr]
        await asyncio.sleep(0.3)
        assert rig.results.count(WriteResult.WRITTEN) == count


async def test_every_edit_is_answered_with_its_generation(
    server: ApiServer, api: KubernetesApi
) -> None:
    await make_route(server, "home", "/home", to_service("web"))
    async with following(server, api) as rig:
        await rig.status(HTTP_ROUTE, "home", ours)
        await server.patch(HTTP_ROUTE, "home", {"spec": {"hostnames": ["a.example.com"]}})
        route = await rig.status(HTTP_ROUTE, "home", lambda s: said(ours(s)[0], "Accepted")[2] == 2)
        assert {c["observedGeneration"] for c in ours(route)[0]["conditions"]} == {2}
        listener = {"name": "http", "port": 8080, "protocol": "HTTP"}
        await server.patch(GATEWAY, "edge", {"spec": {"listeners": [listener]}})
        gateway = await rig.status(GATEWAY, "edge", lambda s: said(s, "Programmed")[2] == 2)
        assert said(gateway, "Accepted")[2] == 2
        assert {c["observedGeneration"] for c in gateway["listeners"][0]["conditions"]} == {2}


async def test_an_entry_goes_with_the_reference_and_others_stay(
    server: ApiServer, api: KubernetesApi
) -> None:
    await make_route(server, "home", "/home", to_service("web"))
    other = {
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "other"},
        "controllerName": "example.com/gw",
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    await server.patch(HTTP_ROUTE, "home", {"status": {"parents": [other]}}, "status")
    async with following(server, api) as rig:
        route = await rig.status(HTTP_ROUTE, "home", ours)
        assert route["parents"][0] == other
        patch = {"spec": {"parentRefs": [{"name": "other"}]}}
        await server.patch(HTTP_ROUTE, "home", patch)
        route = await rig.status(HTTP_ROUTE, "home", lambda s: not ours(s))
        assert route["parents"] == [other]


async def test_entries_go_with_the_gateway(server: ApiServer, api: KubernetesApi) -> None:
    await make_route(server, "home", "/home", to_service("web"))
    async with following(server, api) as rig:
        await rig.status(HTTP_ROUTE, "home", ours)
        await server.delete(GATEWAY, "edge")
        await rig.status(HTTP_ROUTE, "home", lambda s: not ours(s))


async def test_nothing_is_programmed_before_envoy_has_it(
    server: ApiServer, api: KubernetesApi
) -> None:
    async with following(server, api) as rig:
        rig.acknowledged = False
        found = await rig.status(GATEWAY, "edge", lambda s: said(s, "Accepted")[0] == "True")
        assert said(found, "Programmed") == ("False", "Pending", 1)
        assert said(found["listeners"][0], "Programmed")[:2] == ("False", "Pending")
        rig.acknowledged = True
        rig.gateway.told()
        await rig.status(GATEWAY, "edge", lambda s: said(s, "Programmed")[0] == "True")


async def test_the_class_can_be_left_to_a_controller(server: ApiServer, api: KubernetesApi) -> None:
    async with following(server, api, gateway_class_status=False) as rig:
        await rig.status(GATEWAY, "edge", lambda s: said(s, "Accepted")[0] == "True")
        found = (await server.get(GATEWAY_CLASS, class_name(server))).get("status", {})
        assert said(found, "Accepted")[0] != "True"


async def test_for_the_gateway_of_another_only_pools_are_reported(
    server: ApiServer, api: KubernetesApi
) -> None:
    await make_route(server, "chat", "/chat", to_pool("llama"))
    async with following(server, api, controller_name="example.com/other") as rig:
        pool = await rig.status(INFERENCE_POOL, "llama", lambda s: s.get("parents"))
        assert pool["parents"][0]["controllerName"] == "example.com/other"
        assert not (await server.get(GATEWAY, "edge")).get("status", {}).get("listeners")
        assert rig.results == [WriteResult.WRITTEN]


async def test_of_a_reference_that_cannot_be_read_nothing_is_said_yet(
    server: ApiServer, api: KubernetesApi
) -> None:
    await make_route(server, "home", "/home", to_service("web"))
    fault = server.double.fail(
        lambda a: (a.verb, a.resource) == ("list", SERVICE), times=10**9, code=500
    )
    async with following(server, api, patience=0.1) as rig:
        await rig.until(rig.rows)
        await asyncio.sleep(0.2)
        assert rig.results == []
        fault.times = 0
        route = await rig.status(HTTP_ROUTE, "home", ours)
        assert said(ours(route)[0], "ResolvedRefs")[0] == "True"


# --- what Envoy has ---


async def test_a_new_generation_waits_for_envoy_and_not_forever() -> None:
    changed, newest = asyncio.Event(), False
    found = Acknowledgement(lambda: newest, changed.set, grace=0.05)
    found.published(1)
    assert found.state() is None
    await changed.wait()
    assert found.state() is False
    newest = True
    found.told()
    assert found.state() is True
    # Routes change without the Gateway: it stays programmed.
    newest = False
    found.told()
    found.published(1)
    assert found.state() is True
    found.published(2)
    assert found.state() is None
    # A generation that changes nothing for Envoy.
    newest = True
    found.published(3)
    assert found.state() is True
    found.stop()
