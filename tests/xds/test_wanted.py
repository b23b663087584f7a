"""The ADS server of a pool that rests: an endpoint that a pick waits for goes out at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType

import pytest
from grpc import aio

from epp_client.metrics import Metrics
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.settings import UpstreamMode
from epp_client.xds import ads, rests
from epp_client.xds.clusters import cluster_name
from epp_client.xds.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from epp_client.xds.state import EDS

POOL = InferencePool(PoolName("default", "llama"), (("app", "model"),), (8000,))


def _publish(store: PoolStore, generation: int) -> None:
    one = Endpoint(f"10.0.0.{generation}:8000", f"10.0.0.{generation}", 8000, "pod")
    table = EndpointTable(MappingProxyType({one.key: one}), generation)
    store.publish({POOL.name: PoolSnapshot(POOL, table)})


@pytest.mark.asyncio
async def test_a_pick_that_waits_ends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rests, "REST", 1e9)
    monkeypatch.setattr(rests, "LONGEST_REST", 3600.0)  # nothing would come before the test ends
    monkeypatch.setattr(rests, "LONGEST_WANTED_REST", 0.01)
    name = cluster_name(POOL.name)
    store, said = PoolStore(), asyncio.Queue[bytes]()
    path = str(tmp_path / "xds")
    server = ads.AdsServer(store, path, UpstreamMode.OVERRIDE_HOST, Metrics(transport="native"))
    await server.start()
    _publish(store, 1)

    async def requests() -> AsyncIterator[bytes]:
        while True:
            yield await said.get()

    def say(nonce: str) -> None:
        request = DiscoveryRequest(type_url=EDS, resource_names=[name], response_nonce=nonce)
        said.put_nowait(request.SerializeToString())

    async with asyncio.timeout(30), aio.insecure_channel(f"unix:{path}") as channel:
        call = channel.stream_stream(ads.METHOD)(requests())
        say("")
        first = DiscoveryResponse.FromString(await call.read())
        say(first.nonce)
        while store.snapshots["default/llama"].acknowledged != 1:
            await asyncio.sleep(0.001)
        _publish(store, 2)
        (stream,) = server._streams
        while stream.state.held != {name}:
            await asyncio.sleep(0.001)
        server.want(["default/llama", "default/unknown"])
        second = DiscoveryResponse.FromString(await call.read())
        assert b"10.0.0.2" in second.resources[0].value
        call.cancel()
    await server.close()
