"""`python -m benchmarks.gateway_routes [ROUTES]`: many HTTPRoutes, until the real Envoy serves them.

Prints times of the whole table, and of changes of one route: until it is encoded, until Envoy has
acknowledged it, and until a request sees it; and the CPU that Envoy takes for a change. Each route has a
path of its own, and a pool and a Service with weights.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil

from epp_client.envoy.bootstrap import gateway_config
from epp_client.envoy.edge import GatewayEdge
from epp_client.gateway.table import (
    Backend,
    Chain,
    Entry,
    Forward,
    GatewayName,
    GatewayTable,
    HeaderChange,
    Host,
    Listener,
    Match,
    PathMatch,
    Redirect,
    Routes,
    Service,
    ServicePort,
)
from epp_client.metrics.registry import Metrics
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.store import PoolStore
from epp_client.settings import UpstreamMode
from epp_client.xds.ads import AdsServer
from testbed.envoy import running_envoy
from testbed.ports import free_ports
from testbed.stack import ENVOY_HOST

ROUTES = 1000
CHANGES = 100
SERVICES = 50
GATEWAY = GatewayName("default", "gateway")


def forward(number: int) -> Entry:
    """Route `number`, to a pool and a Service."""
    backends = (
        Backend(PoolName("default", f"pool-{number % SERVICES}"), 70),
        Backend(ServicePort("default", f"service-{number % SERVICES}", 80), 30),
    )
    source = f"HTTPRoute default/route-{number} rules[0]"
    return Entry(Match(PathMatch(value=f"/route-{number}")), Forward(backends), source=source)


def table(port: int, entries: list[Entry]) -> GatewayTable:
    """All of them for one hostname."""
    services = {
        ServicePort("default", f"service-{number}", 80): Service((("127.0.0.1", 9),))
        for number in range(SERVICES)
    }
    host = Host("*", tuple(entries))
    listener = Listener(port, (Chain("all"),))
    return GatewayTable(GATEWAY, (listener,), {"all": Routes("all", (host,))}, services)


async def acknowledged(server: AdsServer) -> float:
    """Wait until Envoy has the newest table; returns the time."""
    while not server.gateway_acknowledged:
        await asyncio.sleep(0)
    return time.perf_counter()


async def change(
    server: AdsServer, client: httpx.AsyncClient, port: int, entries: list[Entry], number: int
) -> tuple[float, float, float]:
    """Change one route into a redirect; seconds until it is encoded, acknowledged and served."""
    place = number * len(entries) // CHANGES
    match = entries[place].match
    mark = HeaderChange(set=(("x-change", str(number)),))
    entries[place] = Entry(match, Redirect(hostname="example.com"), response_headers=mark)
    new = table(port, entries)
    began = time.perf_counter()
    server.serve_gateway(new)
    encoded = time.perf_counter() - began
    known = await acknowledged(server) - began
    while True:
        answer = await client.get(f"http://{ENVOY_HOST}:{port}{match.path.value}")
        if answer.headers.get("x-change") == str(number):
            return encoded, known, time.perf_counter() - began


async def main(count: int) -> None:
    """Start, change, print."""
    async with AsyncExitStack() as owner:
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory()))
        store = PoolStore()
        store.publish({})
        server = AdsServer(
            store,
            str(folder / "xds"),
            UpstreamMode.OVERRIDE_HOST,
            Metrics(transport="native"),
            gateway=GatewayEdge(address=ENVOY_HOST, access_log=False),
        )
        await server.start()
        owner.push_async_callback(server.close)
        server.begin({})
        port, admin = free_ports(2)
        entries = [forward(number) for number in range(count)]
        # The import of Envoy's messages for the first listener is no part of the routes.
        server.serve_gateway(table(port, []))
        bootstrap = gateway_config(
            admin=(ENVOY_HOST, admin), ext_proc_sockets=[folder / "none"], ads_socket=folder / "xds"
        )
        envoy = await owner.enter_async_context(running_envoy(bootstrap, (ENVOY_HOST, admin)))
        process = psutil.Process(envoy.process.pid)
        await acknowledged(server)
        whole = table(port, entries)
        began = time.perf_counter()
        server.serve_gateway(whole)
        print(f"{count} routes: encoded in {time.perf_counter() - began:.3f} s", flush=True)
        print(f"{count} routes: acknowledged in {await acknowledged(server) - began:.3f} s")
        client = await owner.enter_async_context(httpx.AsyncClient(timeout=30))
        before = process.cpu_times()
        times = [await change(server, client, port, entries, n) for n in range(CHANGES)]
        after = process.cpu_times()
    cpu = (after.user + after.system - before.user - before.system) / CHANGES
    print(f"one changed route: {cpu * 1000:.1f} ms of Envoy's CPU")
    for what, seconds in zip(
        ("encoded", "acknowledged", "served"), zip(*times, strict=True), strict=True
    ):
        p99 = sorted(seconds)[len(seconds) * 99 // 100]
        print(
            f"one changed route: {what} after {statistics.median(seconds) * 1000:.1f} ms (median),"
            f" {p99 * 1000:.1f} ms (p99 of {len(seconds)})"
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUTES))
