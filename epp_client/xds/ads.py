"""The ADS server: configures Envoy over a Unix socket. `state` decides what to send.

Clusters and endpoints of pools; with a Gateway also its listeners, routes, certificates and Services.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc import aio

from epp_client.envoy.edge import GatewayEdge
from epp_client.envoy.node import outdated, takes_listeners, untried
from epp_client.envoy.pb.discovery_pb2 import DiscoveryRequest, Node
from epp_client.envoy.pool_clusters import cluster_name, serialized_cluster
from epp_client.gateway.table import GatewayTable
from epp_client.metrics.registry import Metrics
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.known import Known
from epp_client.pool.settings import Modes
from epp_client.pool.store import PoolStore
from epp_client.settings import UpstreamMode
from epp_client.wire.grpcio import UNLIMITED_PINGS, start_on_socket
from epp_client.wire.socket_file import SocketFile
from epp_client.wire.socket_names import SocketName
from epp_client.xds.assignments import Assignments
from epp_client.xds.cooldowns import Cooldowns
from epp_client.xds.gateway import GatewayResources
from epp_client.xds.state import CDS, EDS, LDS, RDS, SDS, EnvoyState, Resource, Resources

log = structlog.get_logger(__name__)

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
UNNAMED = 3600.0
"""Seconds until the streams of a socket that lost its name are closed; then Envoy connects to the new
socket."""
_LABELS = {CDS: "cds", EDS: "eds", SDS: "sds", LDS: "lds", RDS: "rds"}


class _Stream:
    """One connected Envoy."""

    def __init__(self) -> None:
        self.state = EnvoyState()
        self.cooldowns = Cooldowns()
        self.takes_listeners = False
        """Whether it has the bootstrap of a Gateway."""
        self.wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def wake_after_cooldown(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the stream when the first cool-down of a delayed resource ends."""
        self.cancel()
        if self.state.held:
            over = min(map(self.cooldowns.ends, self.state.held))
            self._timer = loop.call_at(over, self.wake.set)

    def cancel(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _nothing() -> None:
    """For a relay in this process, which reads the store itself."""


class AdsServer:
    """Serves the pools of a store as clusters and endpoints, and the table of a Gateway."""

    def __init__(
        self,
        store: PoolStore,
        socket_path: str,
        mode: UpstreamMode,
        metrics: Metrics,
        followed: Callable[[], Awaitable[None]] = _nothing,
        gateway: GatewayEdge | None = None,
        gateway_told: Callable[[], None] = lambda: None,
    ) -> None:
        """`followed` returns once every relay has the state that the store had at the call.
        Before the first table, an Envoy of a `gateway` is sent nothing. `gateway_told` is called when
        `gateway_acknowledged` has changed."""
        self._followed = followed
        self._expiring: asyncio.Task[None] | None = None
        self._store = store
        self._path = socket_path
        self._mode = mode
        self._metrics = metrics
        self._streams: set[_Stream] = set()
        self._built: dict[str, tuple[PoolName, AppProtocol]] = {}
        self._clusters: dict[str, Resource] = {}
        self._assignments = Assignments(asyncio.get_running_loop().time)
        self._gateway = None if gateway is None else GatewayResources(gateway)
        self._gateway_told = gateway_told
        self._gateway_acknowledged: bool | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._begun = False
        self._told = asyncio.Event()
        self._warned: set[str] = set()
        """Problems of Envoys that were logged."""
        self._server: aio.Server | None = None
        self._unnamed: dict[asyncio.Task[None], aio.Server] = {}
        """Servers whose sockets have lost their names."""
        self._file: SocketFile | None = None
        self._unsubscribe = store.subscribe(self._pools_changed)

    async def start(self) -> None:
        """Bind the socket. Envoys may connect, but nothing is sent before `begin`.

        Raises:
            RuntimeError: the socket cannot be bound.
        """
        options = [("grpc.max_receive_message_length", -1), UNLIMITED_PINGS]
        server = aio.server(options=options)
        server.add_generic_rpc_handlers((_Handler(self),))
        self._file = await start_on_socket(server, self._path)
        self._server = server

    @property
    def name(self) -> SocketName:
        """The socket's name."""
        return SocketName(
            Path(self._path), lambda: self._file.inode if self._file else None, self.bind_again
        )

    async def bind_again(self) -> None:
        """Serve on a new socket, as the name was removed. Connected Envoys stay for up to an hour.

        Raises:
            OSError, RuntimeError: the socket cannot be bound.
        """
        old = self._server
        await self.start()
        if old is not None:
            ending = asyncio.create_task(old.stop(UNNAMED))
            self._unnamed[ending] = old
            ending.add_done_callback(lambda _: self._unnamed.pop(ending, None))

    def begin(self, known: Known) -> None:
        """Start to send the pools. `known` are endpoints that earlier workers may still pick; they are sent
        as well, for `lingering.HANDOVER` seconds."""
        self._assignments.inherit({cluster_name(pool): table for pool, table in known.items()})
        self._begun = True
        self._tell({})

    def serve_gateway(self, table: GatewayTable | None) -> None:
        """Serve this table from now on. None: it is not known, and Envoy keeps what it has. A Gateway that
        was deleted has a table without listeners."""
        assert self._gateway is not None, "the server was made without a gateway"
        if table is not None:
            self._tell(self._gateway.put(table, self._modes()))
            self._note_gateway()

    @property
    def gateway_acknowledged(self) -> bool | None:
        """Whether every Envoy that takes its listeners from us has accepted the newest table. None: there
        is no such Envoy."""
        return self._gateway_acknowledged

    def _note_gateway(self) -> None:
        gateway, now = self._gateway, None
        if gateway is None:
            return
        states = [s.state for s in self._streams if s.state.follows_type(LDS)]
        if states:
            now = gateway.table is not None and all(map(gateway.acknowledged, states))
        if now != self._gateway_acknowledged:
            self._gateway_acknowledged = now
            self._gateway_told()

    def _modes(self) -> dict[PoolName, Modes]:
        pools = (snapshot.pool for snapshot in self._store.snapshots.values())
        return {pool.name: pool.settings.modes for pool in pools if not pool.settings.modes.whole}

    def _resources(self) -> Mapping[str, Resources]:
        if self._gateway is None or self._gateway.table is None:
            return {CDS: self._clusters, EDS: self._assignments}
        return self._gateway.beside(self._clusters, self._assignments)

    def _may_tell(self, stream: _Stream) -> bool:
        """Whether all is known that Envoy is to be told. What is not sent, Envoy would remove."""
        tabled = self._gateway is None or self._gateway.table is not None
        return self._begun and self._store.synced and (tabled or not stream.takes_listeners)

    @property
    def connected(self) -> int:
        """Number of connected Envoys."""
        return len(self._streams)

    async def told(self, patience: float) -> bool:
        """Wait up to `patience` seconds until an Envoy has acknowledged everything that it asked for; False
        if none has. Always True with original_dst, which needs no endpoints."""
        if self._mode is UpstreamMode.OVERRIDE_HOST:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._told.wait()
            return self._told.is_set()
        return True

    async def close(self) -> None:
        """Stop serving. Envoy keeps its configuration."""
        self._unsubscribe()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.wait({self._expiring})
        if self._server is not None:
            await self._server.stop(0)
        await asyncio.gather(*(old.stop(0) for old in self._unnamed.values()))
        await asyncio.gather(*self._unnamed)
        if self._file is not None:
            self._file.remove()

    def _pools_changed(self, changed: set[PoolName]) -> None:
        touched: dict[str, set[str]] = {}
        for pool in changed:
            name = cluster_name(pool)
            snapshot = self._store.snapshots.get(str(pool))
            if snapshot is None or not snapshot.synced:
                # A cluster without endpoints would stay in warming and delay all other acknowledgements.
                if name not in self._built:
                    continue
                self._built.pop(name, None)
                self._clusters.pop(name, None)
                self._assignments.drop(name)
                for stream in self._streams:
                    stream.state.removed(name)
                    stream.cooldowns.forget(name)
                touched.setdefault(CDS, set()).add(name)
                continue
            built = (pool, snapshot.pool.app_protocol)
            if self._built.get(name) != built:
                # A cluster depends on nothing else of the pool.
                self._built[name] = built
                self._clusters[name] = Resource(serialized_cluster(*built, self._mode))
                touched.setdefault(CDS, set()).add(name)
            if self._assignments.put(name, snapshot):
                touched.setdefault(EDS, set()).add(name)
        if self._gateway is not None:
            for url, names in self._gateway.ask(self._modes()).items():
                touched.setdefault(url, set()).update(names)
        self._tell(touched)

    def _expire_in_time(self, loop: asyncio.AbstractEventLoop) -> None:
        at = self._assignments.next_change()
        if at is not None and self._expiry is None and self._expiring is None:
            self._expiry = loop.call_at(at, self._begin_to_expire, loop)

    def _begin_to_expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._expiry = None
        self._expiring = asyncio.create_task(self._expire(loop))

    async def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Remove endpoints that have lingered enough, once no relay can pick them any more."""
        now = loop.time()
        await self._followed()
        self._expiring = None
        self._tell({EDS: self._assignments.expire(now)})
        self._expire_in_time(loop)

    def _tell(self, touched: Mapping[str, set[str]]) -> None:
        for stream in self._streams:
            for url, names in touched.items():
                stream.state.changed(url, names)
            stream.wake.set()

    def want(self, pools: Collection[str]) -> None:
        """Note that picks wait for endpoints of these pools, given as `namespace/name`."""
        for pool in pools:
            snapshot = self._store.snapshots.get(pool)
            if snapshot is not None:
                for stream in self._streams:
                    stream.cooldowns.want(cluster_name(snapshot.pool.name))
                    stream.wake.set()

    async def serve_stream(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Serve one Envoy's stream until it ends."""
        stream, loop = _Stream(), asyncio.get_running_loop()
        self._streams.add(stream)
        self._metrics.envoys.set(len(self._streams))
        reader = asyncio.create_task(self._read(stream, requests))
        log.info("Envoy has connected")
        try:
            while not reader.done():
                await stream.wake.wait()
                stream.wake.clear()
                if not self._may_tell(stream):
                    # `begin`, the first publication and the first table wake us.
                    continue
                resources = self._resources()
                responses = stream.state.responses(resources, stream.cooldowns.cooling(loop.time()))
                stream.wake_after_cooldown(loop)
                self._note_gateway()
                if any(response.type_url == EDS for response in responses):
                    self._expire_in_time(loop)
                    told, known = stream.state.told, resources[EDS]
                    sizes = {name: len(known[name].value) for name in told if name in known}
                    stream.cooldowns.pushed(sizes, loop.time())
                if stream.state.current:
                    self._told.set()
                for response in responses:
                    self._metrics.xds_pushes.labels(_LABELS[response.type_url]).inc()
                    yield response.SerializeToString()
        finally:
            stream.cancel()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader
            self._streams.discard(stream)
            self._metrics.envoys.set(len(self._streams))
            # Without another subscriber the store keeps the acknowledgements, as Envoy keeps its endpoints.
            others = (other.state.follows for other in self._streams)
            self._acknowledge(stream.state.follows & frozenset().union(*others))
            self._note_gateway()
            log.info("Envoy has disconnected")

    async def _read(self, stream: _Stream, requests: AsyncIterator[bytes]) -> None:
        try:
            async for raw in requests:
                request = DiscoveryRequest.FromString(raw)
                if request.HasField("node"):
                    self._check_node(request.node)
                    stream.takes_listeners = takes_listeners(request.node)
                news = stream.state.receive(request)
                if news:
                    stream.cooldowns.acknowledged(news, asyncio.get_running_loop().time())
                    self._acknowledge(news)
                if request.HasField("error_detail"):
                    self._rejected(request, stream.state)
                if request.type_url != EDS:
                    self._note_gateway()
                stream.wake.set()
        finally:
            stream.wake.set()

    def _rejected(self, request: DiscoveryRequest, state: EnvoyState) -> None:
        label = _LABELS.get(request.type_url, "other")
        self._metrics.xds_nacks.labels(label).inc()
        more: dict[str, object] = {}
        if request.type_url in _LABELS and request.type_url not in (CDS, EDS):
            more["resources"] = sorted(state.told_of(request.type_url))
        if request.type_url == RDS and self._gateway is not None:
            more["one_of"] = self._gateway.sources()
        message = request.error_detail.message[:1000]
        log.error("Envoy rejected a configuration", type=label, message=message, **more)

    def _check_node(self, node: Node) -> None:
        """Warn once of each problem of Envoy. It sends its node on every stream."""
        for event, problem in (
            ("Envoy has an outdated bootstrap", outdated(node)),
            ("Envoy's version has not been tried", untried(node)),
        ):
            if problem is not None and problem not in self._warned and len(self._warned) < 100:
                self._warned.add(problem)
                log.warning(event, node=node.id, problem=problem)

    def _acknowledge(self, names: Collection[str]) -> None:
        """Set the acknowledged generations in the store: of each resource the oldest of all subscribed
        Envoys."""
        for name in names:
            if (built := self._built.get(name)) is not None:
                known = (stream.state.acknowledged(name) for stream in self._streams)
                generations = [generation for generation in known if generation is not None]
                self._store.acknowledge(built[0], min(generations) if generations else None)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, server: AdsServer) -> None:
        self._server = server

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != METHOD:
            return None

        async def handle(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
            async for response in self._server.serve_stream(requests):
                yield response

        return grpc.stream_stream_rpc_method_handler(handle)
