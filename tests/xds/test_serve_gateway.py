"""The ADS server with a Gateway: what it waits for, whom it tells, and what it logs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from epp_client.envoy.edge import Edge, GatewayEdge, Tracing
from epp_client.envoy.own_clusters import COLLECTOR_CLUSTER
from epp_client.gateway.table import (
    Backend,
    Certificate,
    Chain,
    Entry,
    Forward,
    GatewayName,
    GatewayTable,
    Host,
    Listener,
    Match,
    Routes,
    SecretName,
    Service,
    ServicePort,
)
from epp_client.pool.inference_pool import AppProtocol
from epp_client.pool.settings import PoolSettings, RequestMode, ResponseMode
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.xds.ads import AdsServer
from epp_client.xds.gateway import GatewayResources
from epp_client.xds.state import CDS, EDS, LDS, RDS, SDS

from .talking_envoy import CLUSTER, POOL, TalkingEnvoy, publish, serving, table, talking_envoy

pytestmark = pytest.mark.asyncio

WEB, SECRET = ServicePort("default", "web", 80), SecretName("default", "tls")
SERVICE, SECRET_NAME = "service/default/web/80", "secret/default/tls"


def gateway_table(*targets: object, address: str = "10.0.0.1", key: bytes = b"key") -> GatewayTable:
    """One route to each of these, on a listener with a certificate."""
    entries = tuple(
        Entry(Match(), Forward((Backend(target),)), source=f"HTTPRoute default/{target}")  # type: ignore[arg-type]
        for target in targets
    )
    return GatewayTable(
        GatewayName("default", "gateway"),
        (Listener(443, (Chain("all", "*", (SECRET,)),)),),
        {"all": Routes("all", (Host("*", entries),))},
        {WEB: Service(((address, 80),))},
        {SECRET: Certificate(b"chain", key)},
    )


@asynccontextmanager
async def served(path: Path, store: PoolStore) -> AsyncIterator[tuple[AdsServer, TalkingEnvoy]]:
    async with (
        asyncio.timeout(60),
        serving(store, path, gateway=GatewayEdge()) as server,
        talking_envoy(path, gateway=True) as envoy,
    ):
        server.begin({})
        yield server, envoy


async def told(envoy: TalkingEnvoy, *more: str) -> None:
    """Envoy subscribes to everything, and acknowledges the first of each. `more` are other clusters."""
    envoy.say(CDS)
    clusters = await envoy.hears(CDS)
    envoy.say(EDS, SERVICE, *more)
    endpoints = await envoy.hears(EDS)
    envoy.say(EDS, SERVICE, *more, nonce=endpoints.nonce)
    envoy.say(CDS, nonce=clusters.nonce)
    envoy.say(LDS)
    envoy.say(LDS, nonce=(await envoy.hears(LDS)).nonce)
    envoy.say(SDS, SECRET_NAME)
    envoy.say(SDS, SECRET_NAME, nonce=(await envoy.hears(SDS)).nonce)
    envoy.say(RDS, "all")
    envoy.say(RDS, "all", nonce=(await envoy.hears(RDS)).nonce)


async def until(server: AdsServer, acknowledged: bool | None) -> None:
    while server.gateway_acknowledged is not acknowledged:
        await asyncio.sleep(0.001)


async def test_nothing_is_sent_before_the_first_table(tmp_path: Path) -> None:
    """An empty answer would remove what Envoy has from the sidecar before."""
    store = PoolStore()
    async with served(tmp_path / "xds", store) as (server, envoy):
        publish(store, 1)
        envoy.say(CDS)
        envoy.say(LDS)
        await until(server, False)
        server.serve_gateway(None)
        (stream,) = server._streams
        while stream.wake.is_set():
            await asyncio.sleep(0.001)
        assert stream.state._types[CDS].version == 0
        server.serve_gateway(gateway_table(WEB))
        names = [resource.value for resource in (await envoy.hears(CDS)).resources]
        assert any(SERVICE.encode() in name for name in names)
        assert len(names) == 2


async def test_an_envoy_with_its_own_listeners_does_not_wait_for_a_table(tmp_path: Path) -> None:
    store, path = PoolStore(), tmp_path / "xds"
    async with served(path, store) as (server, _), talking_envoy(path) as envoy:
        publish(store, 1)
        envoy.say(CDS)
        clusters = await envoy.hears(CDS)
        assert len(clusters.resources) == 1
        envoy.say(LDS)
        envoy.say(EDS, CLUSTER)
        await envoy.hears(EDS)
        envoy.say(CDS, nonce=clusters.nonce)
        while any(stream.state._types[CDS].waiting for stream in server._streams):
            await asyncio.sleep(0.001)
        # not an empty answer, which would take its listeners away
        server.serve_gateway(gateway_table())
        await envoy.hears(CDS)
        assert len((await envoy.hears(LDS)).resources) == 1


async def test_who_waits_is_told_when_every_envoy_has_the_newest_table(tmp_path: Path) -> None:
    store, changes = PoolStore(), list[bool | None]()
    store.publish({})
    servers: list[AdsServer] = []

    def note() -> None:
        changes.append(servers[0].gateway_acknowledged)

    path = tmp_path / "xds"
    async with (
        asyncio.timeout(60),
        serving(store, path, gateway=GatewayEdge(), gateway_told=note) as server,
    ):
        servers.append(server)
        server.begin({})
        server.serve_gateway(gateway_table(WEB))
        assert server.gateway_acknowledged is None
        async with talking_envoy(path) as envoy:
            await told(envoy)
            await until(server, True)
            server.serve_gateway(gateway_table(None))
            assert server.gateway_acknowledged is False
            envoy.say(RDS, "all", nonce=(await envoy.hears(RDS)).nonce)
            await until(server, True)
        await until(server, None)
        assert changes == [False, True, False, True, None]


async def test_a_change_of_one_thing_is_sent_alone(tmp_path: Path) -> None:
    store = PoolStore()
    store.publish({})
    async with served(tmp_path / "xds", store) as (server, envoy):
        server.serve_gateway(gateway_table(WEB))
        await told(envoy)
        await until(server, True)
        server.serve_gateway(gateway_table(WEB, key=b"renewed"))
        secrets = await envoy.hears(SDS)
        assert b"renewed" in secrets.resources[0].value
        envoy.say(SDS, SECRET_NAME, nonce=secrets.nonce)
        server.serve_gateway(gateway_table(WEB, key=b"renewed", address="10.0.0.2"))
        assert b"10.0.0.2" in (await envoy.hears(EDS)).resources[0].value
        server.serve_gateway(gateway_table(WEB, WEB, key=b"renewed", address="10.0.0.2"))
        await envoy.hears(RDS)


async def test_h2c_of_a_service_changes_its_cluster(tmp_path: Path) -> None:
    store = PoolStore()
    store.publish({})
    async with served(tmp_path / "xds", store) as (server, envoy):
        before = gateway_table(WEB)
        server.serve_gateway(before)
        await told(envoy)
        await until(server, True)
        h2c = Service(before.services[WEB].endpoints, AppProtocol.H2C)
        server.serve_gateway(replace(before, services={WEB: h2c}))
        await envoy.hears(CDS)
        # a changed cluster needs its endpoints again
        await envoy.hears(EDS)


@pytest.mark.parametrize(
    "settings",
    [
        PoolSettings(response_mode=ResponseMode.SKIP),
        PoolSettings(request_mode=RequestMode.HEADERS),
    ],
    ids=["skip", "headers"],
)
async def test_a_pool_that_wants_less_changes_its_routes(
    tmp_path: Path, settings: PoolSettings
) -> None:
    store = PoolStore()
    async with served(tmp_path / "xds", store) as (server, envoy):
        publish(store, 1)
        server.serve_gateway(gateway_table(POOL.name))
        await told(envoy, CLUSTER)
        store.publish({POOL.name: PoolSnapshot(replace(POOL, settings=settings), table(1))})
        await envoy.hears(RDS)


async def test_a_rejection_names_the_routes_that_were_new(tmp_path: Path) -> None:
    store = PoolStore()
    store.publish({})
    with capture_logs() as logs:
        async with served(tmp_path / "xds", store) as (server, envoy):
            server.serve_gateway(gateway_table(WEB))
            await told(envoy)
            await until(server, True)
            server.serve_gateway(gateway_table(WEB, None))
            nonce = (await envoy.hears(RDS)).nonce
            envoy.say(RDS, "all", nonce=nonce, error="bad regex")
            while not any(stream.state.rejected for stream in server._streams):
                await asyncio.sleep(0.001)
            assert server.gateway_acknowledged is False
            metrics = generate_latest(server._metrics.registry).decode()
    [entry] = [item for item in logs if item["event"] == "Envoy rejected a configuration"]
    assert entry["resources"] == ["all"]
    assert entry["one_of"] == ("HTTPRoute default/None",)
    assert 'epp_client_xds_nacks_total{type="rds"} 1.0' in metrics


async def test_routes_that_are_missing_are_empty_ones(tmp_path: Path) -> None:
    """A listener without routes would never serve, and delay the acknowledgement for ever."""
    store = PoolStore()
    store.publish({})
    async with served(tmp_path / "xds", store) as (server, envoy):
        whole = gateway_table(WEB)
        server.serve_gateway(replace(whole, routes={}, certificates={}))
        envoy.say(CDS)
        clusters = await envoy.hears(CDS)
        envoy.say(EDS, SERVICE)
        envoy.say(EDS, SERVICE, nonce=(await envoy.hears(EDS)).nonce)
        envoy.say(CDS, nonce=clusters.nonce)
        envoy.say(RDS, "all")
        [routes] = (await envoy.hears(RDS)).resources
        assert routes.value.startswith(b"\x0a\x03all")


async def test_the_collector_of_spans_is_a_cluster_while_there_are_listeners() -> None:
    edge = GatewayEdge(Edge(tracing=Tracing(("otel", 4317))))
    resources = GatewayResources(edge)
    assert resources.put(gateway_table(WEB), {})[CDS] == {SERVICE, COLLECTOR_CLUSTER}
    assert CDS not in resources.put(gateway_table(WEB), {})
    assert COLLECTOR_CLUSTER not in resources.by_type[EDS]
    # As for an Envoy with a printed bootstrap, which has it already.
    none = replace(gateway_table(WEB), listeners=())
    assert resources.put(none, {})[CDS] == {COLLECTOR_CLUSTER}
