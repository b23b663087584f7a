"""A sidecar with --gateway: when it is ready, what /gateway shows, and what it knows after a restart."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from epp_client.gateway.table import GatewayTable
from epp_client.kubernetes.client.resources import (
    ENDPOINT_SLICE,
    GATEWAY,
    GATEWAY_CLASS,
    INFERENCE_POOL,
    SECRET,
    SERVICE,
)
from epp_client.settings import ServeSettings, serve_settings
from epp_client.sidecar import Sidecar, running
from testbed.kubernetes.double import listing
from tests.kubernetes.client import ApiServer
from tests.kubernetes.gateway_rig import (
    class_name,
    make_class,
    make_gateway,
    make_route,
    to_pool,
    to_service,
)
from tests.kubernetes.manifests import endpoint_slice, inference_pool, service
from tests.kubernetes.test_gateway_parts import key_pair, secret


@pytest.fixture
async def server(api_server: ApiServer) -> AsyncIterator[ApiServer]:
    """The Gateway `edge` with a route to a pool, and one to a Service."""
    await make_class(api_server)
    await make_gateway(api_server)
    await api_server.create(INFERENCE_POOL, inference_pool("llama", picker=None))
    await api_server.create(SERVICE, service("web"))
    await api_server.create(ENDPOINT_SLICE, endpoint_slice("web", "10.9.0.1"))
    await make_route(api_server, "chat", "/chat", to_pool("llama"))
    await make_route(api_server, "home", "/home", to_service("web"))
    yield api_server
    await api_server.delete(GATEWAY_CLASS, class_name(api_server))


def settings(server: ApiServer, folder: Path, **more: Any) -> ServeSettings:
    kubernetes = {
        "kubeconfig": server.kubeconfig,
        "namespaces": [server.namespace],
        "gateway": f"{server.namespace}/edge",
        **more,
    }
    return serve_settings(
        {
            "kubernetes": kubernetes,
            "workers": 0,
            "socket": folder / "ext-proc.sock",
            "xds_socket": None,
            "admin": "127.0.0.1:0",
        }
    )


async def get(sidecar: Sidecar, path: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"http://{sidecar.admin_address}{path}", headers={"accept": "application/json"}
        ) as response,
    ):
        return response.status, await response.json()


def table(sidecar: Sidecar) -> GatewayTable | None:
    """What Envoy is given."""
    kubernetes = sidecar.gateway._source
    assert kubernetes is not None
    assert kubernetes.source is not None
    return kubernetes.source.table


async def ready(sidecar: Sidecar) -> None:
    async with asyncio.timeout(20):
        while sidecar.readiness.reasons:
            await asyncio.sleep(0.01)


async def test_the_table_is_shown_as_rows(server: ApiServer, tmp_path: Path) -> None:
    bad = to_service("missing")
    await make_route(server, "bad", "/bad", bad)
    async with running(settings(server, tmp_path)) as sidecar:
        await ready(sidecar)
        status, found = await get(sidecar, "/gateway")
    assert status == 200
    assert found["gateway"] == f"{server.namespace}/edge"
    (listener,) = found["listeners"]
    assert listener["port"] == 80
    rows = {row["match"]["path"]: row for row in found["routes"]}
    assert rows["PathPrefix /chat"]["host"] == "*"
    assert rows["PathPrefix /chat"]["backends"] == [
        {"target": f"InferencePool {server.namespace}/llama", "weight": 1}
    ]
    assert rows["PathPrefix /home"]["source"].startswith(f"HTTPRoute {server.namespace}/home")
    web = f"{server.namespace}/web:9002"
    assert rows["PathPrefix /home"]["backends"] == [{"target": f"Service {web}", "weight": 1}]
    assert rows["PathPrefix /bad"]["backends"] == [{"target": None, "weight": 1}]
    assert found["services"] == {web: ["10.9.0.1:9002"]}
    assert any("missing" in problem for problem in found["problems"])


async def test_a_sidecar_is_not_ready_before_its_table_is_known(
    server: ApiServer, tmp_path: Path
) -> None:
    served: list[GatewayTable | None] = []

    class Envoys:
        gateway_acknowledged = None

        def serve_gateway(self, table: GatewayTable | None) -> None:
            served.append(table)

    fault = server.double.fail(listing(GATEWAY), times=10**9, code=500)
    async with running(settings(server, tmp_path)) as sidecar:
        sidecar.gateway.connect(Envoys())
        async with asyncio.timeout(20):
            while "gateway" not in sidecar.readiness.reasons or sidecar.readiness.reasons.keys() - {
                "gateway"
            }:
                await asyncio.sleep(0.01)
        assert (await get(sidecar, "/readyz"))[0] == 503
        assert served == []
        fault.times = 0
        await ready(sidecar)
        assert [table is not None for table in served] == [True]


async def test_without_a_gateway_of_ours_there_is_no_table(
    server: ApiServer, tmp_path: Path
) -> None:
    async with running(settings(server, tmp_path, controller_name="example.com/gw")) as sidecar:
        await ready(sidecar)
        assert (await get(sidecar, "/gateway"))[0] == 404


async def test_a_restart_during_an_outage_serves_the_last_routes_and_no_secret_is_on_disk(
    server: ApiServer, tmp_path: Path
) -> None:
    double = server.double
    chain, key = key_pair()
    await server.create(SECRET, secret(chain, key))
    http = {"name": "http", "port": 80, "protocol": "HTTP"}
    tls = {"certificateRefs": [{"name": "tls"}]}
    https = {"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}
    await server.patch(GATEWAY, "edge", {"spec": {"listeners": [http, https]}})
    file = tmp_path / "last-known.json"
    serve = settings(server, tmp_path, last_known=file)
    async with running(serve) as sidecar:
        await ready(sidecar)
        first = sidecar.gateway.resolution
        assert first is not None
        assert [listener.port for listener in first.table.listeners] == [80, 443]
    text = file.read_text()
    assert "HTTPRoute" in text or "parentRefs" in text
    for value in secret(chain, key)["data"].values():
        assert value not in text
    assert "PRIVATE KEY" not in text
    double.outage()
    async with running(serve) as sidecar:
        async with asyncio.timeout(30):
            while table(sidecar) is None:
                await asyncio.sleep(0.05)
        # The HTTPS listener stays; Envoy has its certificate, or waits for it.
        assert table(sidecar) == replace(first.table, certificates={})
        double.mend()
        async with asyncio.timeout(30):
            while table(sidecar) != first.table:
                await asyncio.sleep(0.05)
