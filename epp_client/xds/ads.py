"""The ADS server: CDS and EDS for the Envoy beside us, over a Unix socket. The shell of `state`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog
from grpc import aio

from epp_client.metrics import Metrics
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.store import PoolStore
from epp_client.settings import UpstreamMode
from epp_client.wire.grpcio import start_on_socket
from epp_client.xds.clusters import cluster_name, pool_cluster
from epp_client.xds.endpoints import load_assignment
from epp_client.xds.pb.discovery_pb2 import DiscoveryRequest
from epp_client.xds.state import CDS, EDS, EnvoyState, Resource

log = structlog.get_logger(__name__)

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_LABELS = {CDS: "cds", EDS: "eds"}


class _Stream:
    """One connected Envoy."""

    def __init__(self) -> None:
        self.state = EnvoyState()
        self.wake = asyncio.Event()


class AdsServer:
    """Serves the pools of a store as clusters and endpoints."""

    def __init__(
        self, store: PoolStore, socket_path: str, mode: UpstreamMode, metrics: Metrics
    ) -> None:
        self._store = store
        self._path = socket_path
        self._mode = mode
        self._metrics = metrics
        self._streams: set[_Stream] = set()
        self._built: dict[str, AppProtocol] = {}
        self._resources: dict[str, dict[str, Resource]] = {CDS: {}, EDS: {}}
        self._server: aio.Server | None = None
        self._unsubscribe = store.subscribe(self._pools_changed)

    async def start(self) -> None:
        """Bind the socket.

        Raises:
            RuntimeError: it cannot be bound.
        """
        server = aio.server(options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((_Handler(self),))
        await start_on_socket(server, self._path)
        self._server = server

    async def close(self) -> None:
        """Stop serving; Envoy keeps what it has."""
        self._unsubscribe()
        if self._server is not None:
            await self._server.stop(0)

    def _pools_changed(self, changed: set[PoolName]) -> None:
        clusters, endpoints = self._resources[CDS], self._resources[EDS]
        touched = set()
        for pool in changed:
            name = cluster_name(pool)
            snapshot = self._store.snapshots.get(str(pool))
            if snapshot is None:
                self._built.pop(name, None)
                clusters.pop(name, None)
                endpoints.pop(name, None)
                touched = {CDS, EDS}
                continue
            protocol = snapshot.pool.app_protocol
            if self._built.get(name) is not protocol:
                # Nothing else of a pool is in its cluster; acknowledgements come here as well.
                self._built[name] = protocol
                clusters[name] = Resource(bytes(pool_cluster(pool, protocol, self._mode)))
                touched.add(CDS)
            generation = snapshot.table.generation
            if name not in endpoints or endpoints[name].generation != generation:
                endpoints[name] = Resource(load_assignment(snapshot), generation)
                touched.add(EDS)
        for stream in self._streams:
            for url in touched:
                stream.state.changed(url)
            stream.wake.set()

    async def serve_stream(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """One Envoy's stream: requests in, responses out, until it goes."""
        stream = _Stream()
        self._streams.add(stream)
        self._metrics.envoys.set(len(self._streams))
        reader = asyncio.create_task(self._read(stream, requests))
        log.info("an Envoy has connected")
        try:
            while not reader.done():
                await stream.wake.wait()
                stream.wake.clear()
                if not self._store.synced:
                    continue  # unknown is never none: the first publication wakes us
                for response in stream.state.responses(self._resources):
                    self._metrics.xds_pushes.labels(_LABELS[response.type_url]).inc()
                    yield response.SerializeToString()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader
            self._streams.discard(stream)
            self._metrics.envoys.set(len(self._streams))
            self._acknowledge()
            log.info("an Envoy has gone")

    async def _read(self, stream: _Stream, requests: AsyncIterator[bytes]) -> None:
        try:
            async for raw in requests:
                request = DiscoveryRequest.FromString(raw)
                stream.state.receive(request)
                if request.HasField("error_detail"):
                    label = _LABELS.get(request.type_url, "other")
                    self._metrics.xds_nacks.labels(label).inc()
                    log.error(
                        "Envoy rejected a configuration",
                        type=label,
                        message=request.error_detail.message[:1000],
                    )
                if request.type_url == EDS:
                    self._acknowledge()
                stream.wake.set()
        finally:
            stream.wake.set()

    def _acknowledge(self) -> None:
        """Tell the store the oldest generation that any subscribed Envoy has."""
        for snapshot in list(self._store.snapshots.values()):
            name = cluster_name(snapshot.pool.name)
            known = (stream.state.acknowledged(name) for stream in self._streams)
            generations = [generation for generation in known if generation is not None]
            self._store.acknowledge(snapshot.pool.name, min(generations) if generations else None)


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
