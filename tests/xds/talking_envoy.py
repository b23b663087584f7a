"""An ADS server, and the Envoy end of a stream to it: one request and one response at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import envoy_data_plane.envoy.config.endpoint.v3 as endpoint_v3
from grpc import aio

from epp_client.envoy.node import GATEWAY_KEY
from epp_client.envoy.pb.discovery_pb2 import DiscoveryRequest
from epp_client.envoy.pb.discovery_pb2 import DiscoveryResponse as Response
from epp_client.envoy.pool_clusters import cluster_name
from epp_client.metrics.registry import Metrics
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.settings import UpstreamMode
from epp_client.xds.ads import METHOD, AdsServer

POOL = InferencePool(PoolName("default", "llama"), (("app", "model"),), (8000,))
CLUSTER = cluster_name(POOL.name)


def table(generation: int) -> EndpointTable:
    """Its only member is 10.0.0.<generation>:8000."""
    one = Endpoint(
        f"10.0.0.{generation}:8000", f"10.0.0.{generation}", 8000, "pod", True, generation
    )
    return EndpointTable(MappingProxyType({one.key: one}), generation)


def publish(store: PoolStore, generation: int) -> None:
    """The store has the pool, with that table."""
    store.publish({POOL.name: PoolSnapshot(POOL, table(generation))})


@asynccontextmanager
async def serving(
    store: PoolStore,
    path: Path,
    mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST,
    **more: Any,
) -> AsyncIterator[AdsServer]:
    """A server that has not begun to tell anything. `more`: see AdsServer."""
    server = AdsServer(store, str(path), mode, Metrics(transport="native"), **more)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


class TalkingEnvoy:
    """Says what the test wants it to say."""

    def __init__(
        self, call: "aio.StreamStreamCall", said: "asyncio.Queue[bytes]", *, gateway: bool
    ) -> None:
        self._call = call
        self._gateway = gateway
        self._said = said

    def say(self, url: str, *names: str, nonce: str = "", error: str = "") -> None:
        """Subscribe, or acknowledge the response of that nonce, or reject it with an `error`."""
        request = DiscoveryRequest(type_url=url, resource_names=names, response_nonce=nonce)
        if self._gateway:
            request.node.metadata[GATEWAY_KEY] = True
        if error:
            request.error_detail.message = error
        self._said.put_nowait(request.SerializeToString())

    async def hears(self, url: str) -> Response:
        """The next response, which is of this type."""
        response = Response.FromString(await self._call.read())
        assert response.type_url == url
        return response


def read_assignment(value: bytes) -> tuple[str, list[tuple[str, int | None]]]:
    """By Envoy's whole protos: the cluster and the addresses."""
    assignment = endpoint_v3.ClusterLoadAssignment.parse(value)
    [locality] = assignment.endpoints
    found = []
    for one in locality.lb_endpoints:
        assert one.endpoint is not None
        assert one.endpoint.address is not None
        address = one.endpoint.address.socket_address
        assert address is not None
        found.append((address.address, address.port_value))
    return assignment.cluster_name, found


@asynccontextmanager
async def talking_envoy(path: Path, *, gateway: bool = False) -> AsyncIterator[TalkingEnvoy]:
    """Connected until the end of the block. `gateway`: its bootstrap is one for Gateways."""
    said = asyncio.Queue[bytes]()

    async def requests() -> AsyncIterator[bytes]:
        while True:
            yield await said.get()

    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(f"unix:{path}", options=options) as channel:
        call = channel.stream_stream(METHOD)(requests())
        try:
            yield TalkingEnvoy(call, said, gateway=gateway)
        finally:
            call.cancel()
