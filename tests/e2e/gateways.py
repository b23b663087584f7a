"""The real Envoy with the table of a Gateway, and Services that tell what they have received."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from aiohttp import web

from epp_client.envoy.bootstrap import gateway_config
from epp_client.envoy.edge import GatewayEdge
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
    PathKind,
    PathMatch,
    Redirect,
    Routes,
    SecretName,
    Service,
    ServicePort,
)
from epp_client.metrics.registry import Metrics
from epp_client.pool.store import PoolStore
from epp_client.settings import UpstreamMode
from epp_client.xds.ads import AdsServer
from testbed.envoy import Envoy, running_envoy
from testbed.ports import free_ports
from testbed.stack import ENVOY_HOST

GATEWAY = GatewayName("default", "gateway")
ECHO, OTHER, EMPTY = (ServicePort("default", name, 80) for name in ("echo", "other", "empty"))
CERTIFICATE = SecretName("default", "certificate")
TO_ECHO = Forward((Backend(ECHO),))


def entry(path: str, action: Forward | Redirect, kind: PathKind = PathKind.PREFIX) -> Entry:
    """A row for a path."""
    return Entry(Match(PathMatch(kind, path)), action, source=f"HTTPRoute default/test {path}")


@dataclass
class RunningGateway:
    """An Envoy and its ADS server."""

    server: AdsServer
    envoy: Envoy
    store: PoolStore
    ports: tuple[int, int]
    """Free ports: for plaintext, and for TLS."""
    socket: Path
    """Of the ADS server."""
    services: dict[ServicePort, Service] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    """Service and path of each request that has reached one."""

    @property
    def url(self) -> str:
        """The plaintext port."""
        return f"http://{ENVOY_HOST}:{self.ports[0]}"

    def table(
        self, *hosts: Host, certificate: Certificate | None = None, more: Sequence[Listener] = ()
    ) -> GatewayTable:
        """A table with these hosts on the plaintext port, and with a `certificate` on that for TLS too."""
        plain, encrypted = self.ports
        listeners = [Listener(plain, (Chain("all"),))]
        if certificate is not None:
            chain = Chain("all", "*.example.com", (CERTIFICATE,))
            listeners.append(Listener(encrypted, (chain,)))
        return GatewayTable(
            GATEWAY,
            (*listeners, *more),
            {"all": Routes("all", hosts)},
            self.services,
            {} if certificate is None else {CERTIFICATE: certificate},
        )

    async def serve(self, table: GatewayTable) -> None:
        """Until Envoy has it."""
        self.server.serve_gateway(table)
        await self.acknowledged()

    async def acknowledged(self) -> None:
        """Until Envoy has the newest table."""
        async with asyncio.timeout(60):
            while not self.server.gateway_acknowledged:
                await asyncio.sleep(0.005)

    async def replace_server(self) -> None:
        """A new sidecar's ADS server takes the place of this one's. It knows no table yet."""
        await self.server.close()
        self.server = await _serving(self.store, self.socket)

    async def stats(self, *names: str) -> list[int]:
        """Values of Envoy's statistics."""
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{self.envoy.admin}/stats?filter=listener_manager")
        values = dict(line.split(": ") for line in answer.text.splitlines())
        return [int(values[name]) for name in names]


@asynccontextmanager
async def running_gateway(
    store: PoolStore, ext_proc_sockets: Iterable[Path] = ()
) -> AsyncIterator[RunningGateway]:
    """An Envoy that has asked for its listeners, two Services with an endpoint, and an empty one.
    Nothing is served yet."""
    async with contextlib.AsyncExitStack() as owner:
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-")))
        socket = folder / "xds.sock"
        plain, encrypted, admin = free_ports(3)
        bootstrap = gateway_config(
            admin=(ENVOY_HOST, admin),
            ext_proc_sockets=[*ext_proc_sockets] or [folder / "ext-proc.sock"],
            ads_socket=socket,
        )
        server = await _serving(store, socket)
        # Envoy waits for its clusters before it is ready.
        server.serve_gateway(GatewayTable(GATEWAY))
        envoy = await owner.enter_async_context(running_envoy(bootstrap, (ENVOY_HOST, admin)))
        made = RunningGateway(server, envoy, store, (plain, encrypted), socket)
        made.services[EMPTY] = Service()
        for service in (ECHO, OTHER):
            address = await owner.enter_async_context(echoing(service.name, made.seen))
            made.services[service] = Service((address,))
        try:
            yield made
        finally:
            await made.server.close()


async def _serving(store: PoolStore, socket: Path) -> AdsServer:
    server = AdsServer(
        store,
        str(socket),
        UpstreamMode.OVERRIDE_HOST,
        Metrics(transport="native"),
        gateway=GatewayEdge(address=ENVOY_HOST, access_log=False),
    )
    await server.start()
    server.begin({})
    return server


@asynccontextmanager
async def echoing(name: str, seen: list[tuple[str, str]]) -> AsyncIterator[tuple[str, int]]:
    """An HTTP server on a free port: what it answers is JSON of the path and the headers it has got."""

    async def answer(request: web.Request) -> web.Response:
        seen.append((name, request.raw_path))
        headers = [[key.lower(), value] for key, value in request.headers.items()]
        told = {"service": name, "path": request.raw_path, "headers": headers}
        return web.json_response(told, headers={"x-removed": "1", "x-kept": "1"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    [port] = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield "127.0.0.1", port
    finally:
        await runner.cleanup()
