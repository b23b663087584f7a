"""`serve --gateway` with the real Envoy: routes of a real API server, through its outage and a restart."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from epp_client.envoy.bootstrap import gateway_config
from testbed.cluster import objects
from testbed.cluster.api import Object
from testbed.cluster.control_plane import ControlPlane
from testbed.cluster.gateway import HOST, Sidecar, running_sidecar
from testbed.envoy import running_envoy
from testbed.ports import free_ports
from tests.cluster.conftest import Site
from tests.cluster.load import steady_load
from tests.kubernetes.test_gateway_parts import key_pair, secret

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

PATIENCE = 30.0
OUTAGE = 5.0
PATIENCE_FOR_SECRETS = 7.0
"""Seconds from the start of a sidecar after which it serves without the Secrets that it waits for."""


@dataclass
class Routed:
    """A Gateway `edge` with the route `chat` to the pool, and an Envoy that serves it."""

    site: Site
    gateway: Object
    route: Object
    url: str
    tls_url: str

    @asynccontextmanager
    async def sidecar(self) -> AsyncIterator[Sidecar]:
        """Run the sidecar."""
        site = self.site
        arguments = (
            *("--namespace", site.namespace, "--lease-namespace", site.namespace),
            *("--gateway", f"{site.namespace}/edge", "--gateway-address", HOST),
            *("--last-known", str(site.folder / "last-known.json")),
        )
        async with running_sidecar(site.folder, site.kubeconfig, *arguments) as sidecar:
            yield sidecar

    async def status(self, path: str, url: str = "") -> int:
        """The status of a request; 0 without one."""
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        async with aiohttp.ClientSession() as session:
            try:
                async with session.post(f"{url or self.url}{path}", json=body, ssl=False) as answer:
                    return answer.status
            except aiohttp.ClientError:
                return 0

    async def until(self, path: str, status: int, url: str = "") -> None:
        """Until requests for `path` get this status."""
        async with asyncio.timeout(PATIENCE):
            while await self.status(path, url) != status:
                await asyncio.sleep(0.1)

    async def said(self, data: Object, holds: Callable[[Any], bool]) -> Object:
        """The status of an object once it is as it should be."""
        async with asyncio.timeout(PATIENCE):
            while not holds(found := (await self.site.api.get(data)).get("status") or {}):
                await asyncio.sleep(0.1)
        return found


@asynccontextmanager
async def routed(site: Site) -> AsyncIterator[Routed]:
    """Requests for /<namespace>/pool/ go to the pool, as they do without a Gateway."""
    port, tls_port, admin = free_ports(3)
    of_class = f"class-{site.namespace}"
    await site.api.create(objects.gateway_class(of_class, "epp-client.dev/gateway"))
    gateway = objects.gateway("edge", namespace=site.namespace, of_class=of_class)
    gateway["spec"]["listeners"][0]["port"] = port
    tls = {"certificateRefs": [{"name": "tls"}]}
    https = {"name": "https", "port": tls_port, "protocol": "HTTPS", "tls": tls}
    gateway["spec"]["listeners"].append(https)
    metadata = {"name": "tls", "namespace": site.namespace}
    made = {"apiVersion": "v1", "kind": "Secret", **secret(*key_pair()), "metadata": metadata}
    await site.api.create(made)
    await site.api.create(gateway)
    await site.api.create(site.pool())
    await site.picker()
    route = objects.http_route("chat", namespace=site.namespace, gateway="edge", pool="pool")
    route["spec"]["rules"][0] |= rule(f"/{site.namespace}/pool")
    await site.api.create(route)
    bootstrap = gateway_config(
        admin=(HOST, admin),
        ext_proc_sockets=[site.folder / "ext-proc.sock"],
        ads_socket=site.folder / "xds.sock",
    )
    async with running_envoy(bootstrap, (HOST, admin)):
        yield Routed(site, gateway, route, f"http://{HOST}:{port}", f"https://{HOST}:{tls_port}")


def rule(path: str) -> Object:
    """The match of a path, which the endpoint does not see."""
    rewrite = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
    return {
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "filters": [{"type": "URLRewrite", "urlRewrite": {"path": rewrite}}],
    }


def true(status: Any, *types: str) -> bool:
    held = {c["type"]: c["status"] for c in status.get("conditions", ())}
    return all(held.get(type) == "True" for type in types)


async def test_routes_are_served_through_an_outage_and_a_restart_within_it(
    site: Site, plane: ControlPlane
) -> None:
    async with routed(site) as edge:
        path = f"/{site.namespace}/pool"
        chat = f"{path}/v1/chat/completions"
        async with edge.sidecar():
            await edge.until(chat, 200)
            await edge.until(chat, 200, edge.tls_url)
            found = await edge.said(edge.gateway, lambda s: true(s, "Accepted", "Programmed"))
            assert found["addresses"] == [{"type": "IPAddress", "value": HOST}]
            assert [one["attachedRoutes"] for one in found["listeners"]] == [1, 1]
            await edge.said(edge.route, lambda s: true(s["parents"][0], "Accepted", "ResolvedRefs"))
            await edge.said(
                site.pool(), lambda s: s.get("parents") and true(s["parents"][0], "Accepted")
            )
            async with steady_load(f"{edge.url}{path}") as load:
                await load.until_served_by(*site.models.endpoints(site.models.ports[0]))
                await plane.kill()
                await asyncio.sleep(OUTAGE)
            assert load.failures == []
        async with edge.sidecar():
            # From the last-known file: the API server is still away.
            await edge.until(chat, 200)
            # The file has no certificate, and Envoy keeps its own.
            await asyncio.sleep(PATIENCE_FOR_SECRETS)
            assert await edge.status(chat, edge.tls_url) == 200
            await plane.start()
            rules = [{**edge.route["spec"]["rules"][0], **rule("/new")}]
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        await site.api.patch(edge.route, {"spec": {"rules": rules}})
                        break
                    except (OSError, aiohttp.ClientError):
                        await asyncio.sleep(0.2)
            await edge.until("/new/v1/chat/completions", 200)
            await edge.until(chat, 404)
            observed = await edge.said(
                edge.route,
                lambda s: s["parents"][0]["conditions"][0]["observedGeneration"] == 2,
            )
            assert true(observed["parents"][0], "Accepted", "ResolvedRefs")
            await site.api.delete(edge.gateway)
            await edge.until("/new/v1/chat/completions", 0)
            # The server writes no empty list of its own: our entry was the only one.
            await edge.said(edge.route, lambda s: not s.get("parents"))
