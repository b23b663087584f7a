"""A Gateway on an API server: what is served for it, what is asked for, and faults of the server."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from epp_client.gateway.table import Certificate, GatewayName, GatewayTable, SecretName, ServicePort
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import (
    ENDPOINT_SLICE,
    GATEWAY,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    INFERENCE_POOL,
    NAMESPACE,
    REFERENCE_GRANT,
    SECRET,
    SERVICE,
)
from epp_client.kubernetes.follow.gateway_queries import MANY
from testbed.kubernetes.double import listing
from testbed.kubernetes.watches import Watch
from tests.kubernetes.client import ApiServer
from tests.kubernetes.gateway_rig import (
    PATIENCE,
    class_name,
    following,
    make_class,
    make_gateway,
    make_route,
    to_pool,
    to_service,
)
from tests.kubernetes.manifests import endpoint_slice, inference_pool, service
from tests.kubernetes.test_gateway_parts import key_pair, secret

HTTPS = {
    "name": "https",
    "port": 443,
    "protocol": "HTTPS",
    "tls": {"certificateRefs": [{"name": "tls"}]},
}


@pytest.fixture
async def server(api_server: ApiServer) -> AsyncIterator[ApiServer]:
    """With a GatewayClass of ours, the Gateway `edge`, the pool `llama` and the Service `web`."""
    await make_class(api_server)
    await make_gateway(api_server)
    await api_server.create(INFERENCE_POOL, inference_pool("llama", picker=None))
    await api_server.create(SERVICE, service("web"))
    await api_server.create(ENDPOINT_SLICE, endpoint_slice("web", "10.9.0.1"))
    yield api_server
    await api_server.delete(GATEWAY_CLASS, class_name(api_server))


async def test_routes_to_pools_and_services_are_served(
    server: ApiServer, api: KubernetesApi
) -> None:
    await make_route(server, "chat", "/chat", to_pool("llama"))
    await make_route(server, "home", "/home", to_service("web"))
    async with following(server, api) as rig:
        await rig.until(rig.rows)
        assert rig.rows() == {"/chat": ["llama"], "/home": ["web:9002"]}
        assert rig.table is not None
        port = ServicePort(server.namespace, "web", 9002)
        assert rig.table.services[port].endpoints == (("10.9.0.1", 9002),)
        # The first table has everything: no request gets a 500 because we were too early.
        assert len(rig.tables) == 1


async def test_edits_are_followed(server: ApiServer, api: KubernetesApi) -> None:
    port = ServicePort(server.namespace, "web", 9002)
    async with following(server, api) as rig:
        await rig.until(lambda: rig.table)
        await make_route(server, "home", "/home", to_service("web"))
        await rig.until(rig.rows)
        await server.create(ENDPOINT_SLICE, endpoint_slice("web", "10.9.0.2", suffix="b"))
        await rig.until(lambda: rig.table and len(rig.table.services[port].endpoints) == 2)
        await server.delete(HTTP_ROUTE, "home")
        await rig.until(lambda: not rig.rows())
        # What nothing refers to is not followed any more.
        assert SERVICE not in rig.followed()


async def test_a_status_alone_resolves_nothing_again(server: ApiServer, api: KubernetesApi) -> None:
    await make_route(server, "home", "/home", to_service("web"))
    async with following(server, api, status=False) as rig:
        await rig.until(rig.rows)
        before, edition = rig.gateway.resolution, rig.gateway.edition
        await server.patch(HTTP_ROUTE, "home", {"status": {"parents": []}}, "status")
        await rig.until(lambda: rig.gateway.edition > edition)
        assert rig.gateway.resolution is before


async def test_the_gateway_of_another_implementation_is_not_served(
    server: ApiServer, api: KubernetesApi
) -> None:
    async with following(server, api, controller_name="example.com/other") as rig:
        await rig.until(lambda: rig.missing == "")
        assert rig.tables == [GatewayTable(GatewayName(server.namespace, "edge"))]
        assert rig.followed() == {GATEWAY, GATEWAY_CLASS}


async def test_a_gateway_that_appears_later_is_served_and_one_that_goes_is_not(
    server: ApiServer, api: KubernetesApi
) -> None:
    await server.delete(GATEWAY, "edge")
    async with following(server, api) as rig:
        await rig.until(lambda: rig.tables)
        assert rig.tables == [GatewayTable(GatewayName(server.namespace, "edge"))]
        await make_gateway(server)
        await rig.until(lambda: rig.table is not None and rig.table.listeners)
        await server.delete(GATEWAY, "edge")
        await rig.until(lambda: rig.table is not None and not rig.table.listeners)
        assert rig.table == GatewayTable(GatewayName(server.namespace, "edge"))


async def test_a_class_that_is_deleted_takes_nothing_away(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    await make_class(api_server)
    await make_gateway(api_server)
    async with following(api_server, api) as rig:
        await rig.until(lambda: rig.table is not None and rig.table.listeners)
        edition = rig.gateway.edition
        await api_server.delete(GATEWAY_CLASS, class_name(api_server))
        await rig.until(lambda: rig.gateway.edition > edition)
        assert rig.table is not None
        assert rig.table.listeners


async def test_no_secret_is_read_that_no_listener_names(
    server: ApiServer, api: KubernetesApi
) -> None:
    double = server.double
    await server.create(SECRET, secret(*key_pair()) | {"metadata": {"name": "other"}})
    async with following(server, api) as rig:
        await rig.until(lambda: rig.table)
        assert double.count("list", SECRET) == 0
        chain, key = key_pair()
        await server.create(SECRET, secret(chain, key))
        await server.patch(GATEWAY, "edge", {"spec": {"listeners": [HTTPS]}})
        name = SecretName(server.namespace, "tls")
        await rig.until(lambda: rig.table and rig.table.certificates)
        assert rig.table is not None
        assert rig.table.certificates == {name: Certificate(chain, key)}
        asked = [a for a in double.requests if a.resource is SECRET]
        assert {a.query["fieldSelector"] for a in asked} == {"metadata.name=tls"}
        # A rotated certificate comes by itself.
        chain, key = key_pair()
        await server.patch(SECRET, "tls", {"data": secret(chain, key)["data"]})
        await rig.until(lambda: rig.table and rig.table.certificates[name].chain == chain)


async def test_many_services_need_few_watches(server: ApiServer, api: KubernetesApi) -> None:
    double = server.double
    for index in range(MANY):
        await server.create(SERVICE, service(f"s{index}"))
        slice = endpoint_slice(f"s{index}", f"10.8.0.{index}")
        await server.create(ENDPOINT_SLICE, slice)
        await make_route(server, f"r{index}", f"/{index}", to_service(f"s{index}"))
    async with following(server, api) as rig:
        await rig.until(rig.rows)
        assert rig.table is not None
        found = {p.name: s.endpoints[0][0] for p, s in rig.table.services.items()}
        assert found == {f"s{index}": f"10.8.0.{index}" for index in range(MANY)}
        watched: list[Watch] = []
        # The lists suffice for a table: the watches begin a moment later.
        async with asyncio.timeout(PATIENCE):
            while {w.asked.resource for w in watched} != {SERVICE, ENDPOINT_SLICE}:
                await asyncio.sleep(0.01)
                kinds = (SERVICE, ENDPOINT_SLICE)
                watched = [w for w in double.watches if w.asked.resource in kinds]
        assert len(watched) == 2


async def test_labels_of_namespaces_are_read_if_a_listener_selects_by_them(
    server: ApiServer, api: KubernetesApi
) -> None:
    await make_route(server, "home", "/home", to_service("web"))
    async with following(server, api) as rig:
        await rig.until(rig.rows)
        allowed = {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}
        listener = {
            "name": "http",
            "port": 80,
            "protocol": "HTTP",
            "allowedRoutes": {"namespaces": allowed},
        }
        await server.patch(GATEWAY, "edge", {"spec": {"listeners": [listener]}})
        await rig.until(lambda: not rig.rows())
        labels = {"metadata": {"labels": {"team": "a"}}}
        await server.call(
            "PATCH",
            NAMESPACE.path(name=server.namespace),
            labels,
            "application/merge-patch+json",
        )
        await rig.until(rig.rows)


# --- what is not known is not none ---


@pytest.mark.parametrize("resource", [GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, REFERENCE_GRANT])
async def test_nothing_is_served_before_all_is_listed(
    server: ApiServer, api: KubernetesApi, resource: object
) -> None:
    double = server.double
    await make_route(server, "home", "/home", to_service("web"))
    fault = double.fail(lambda a: (a.verb, a.resource) == ("list", resource), times=10**9, code=500)
    async with following(server, api) as rig:
        await rig.until(lambda: rig.missing and str(resource) in rig.missing)
        assert rig.tables == []
        fault.times = 0
        await rig.until(rig.rows)
        assert len(rig.tables) == 1


async def test_a_route_that_refers_to_a_new_service_waits_for_it_and_not_forever(
    server: ApiServer, api: KubernetesApi
) -> None:
    double = server.double
    async with following(server, api, patience=0.5) as rig:
        await rig.until(lambda: rig.table)
        count = len(rig.tables)
        double.fail(listing(SERVICE), times=10**9, hang=True)
        await make_route(server, "home", "/home", to_service("web"))
        await rig.until(lambda: rig.gateway.source and rig.gateway.source.waits)
        assert len(rig.tables) == count
        await rig.until(rig.rows)
        assert rig.rows() == {"/home": ["None"]}
        # What is missing is waited for once.
        await make_route(server, "chat", "/chat", to_pool("llama"))
        await rig.until(lambda: "/chat" in rig.rows())
        # Of what is not known nothing is said.
        assert rig.gateway.source is not None
        assert rig.gateway.source.statuses is None


async def test_an_outage_changes_nothing(server: ApiServer, api: KubernetesApi) -> None:
    double = server.double
    await make_route(server, "home", "/home", to_service("web"))
    async with following(server, api) as rig:
        await rig.until(rig.rows)
        tables = [*rig.tables]
        double.outage()
        await rig.until(rig.gateway.stale)
        await asyncio.sleep(0.2)
        assert rig.tables == tables
        assert rig.gateway.failures()
        double.mend()
        await rig.until(lambda: not rig.gateway.stale())
        await make_route(server, "chat", "/chat", to_pool("llama"))
        await rig.until(lambda: "/chat" in rig.rows())


async def test_without_the_crds_there_is_no_gateway(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    for resource in (GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, REFERENCE_GRANT):
        api_server.double.objects.uninstall(resource)
    async with following(api_server, api) as rig:
        await rig.until(lambda: rig.missing == "")
        assert rig.tables == [None]
        assert rig.gateway.stale() == 0
        for resource in (GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, REFERENCE_GRANT):
            api_server.double.objects.install(resource)
        await make_class(api_server)
        await make_gateway(api_server)
        await rig.until(lambda: rig.table)


async def test_without_the_right_to_read_the_gateway_it_is_anothers(
    server: ApiServer, api: KubernetesApi
) -> None:
    server.double.forbidden.add(("list", "gateways"))
    async with following(server, api) as rig:
        await rig.until(lambda: rig.missing == "")
        assert rig.tables == [None]
        assert rig.gateway.stale() == 0


async def test_a_secret_that_may_not_be_read_is_named(
    server: ApiServer, api: KubernetesApi
) -> None:
    server.double.forbidden.add(("list", "secrets"))
    await server.patch(GATEWAY, "edge", {"spec": {"listeners": [HTTPS]}})
    async with following(server, api) as rig:
        await rig.until(lambda: rig.gateway.resolution)
        assert rig.gateway.resolution is not None
        said = [str(problem) for problem in rig.gateway.resolution.problems]
        assert any('RBAC verb "list" on "secrets"' in text for text in said), said
