"""What a control process hears from those who serve its sockets before it does."""

import asyncio
import socket
from pathlib import Path
from types import MappingProxyType

import pytest

from epp_client.data_plane.plane import DataPlane
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings, TransportName
from epp_client.wire.native import NativeTransport
from epp_client.wire.status import Status
from epp_client.wire.transport import NO_OWNER, Stream, StreamEvents
from epp_client.workers.predecessor import Left, known_on, left_on

POOL = PoolName("default", "llama")
ENDPOINTS = [f"10.{n >> 8}.{n & 255}.1:8000" for n in range(10_000)]
"""More than 16 KiB of them, and than what a connection takes at once."""


@pytest.mark.parametrize("transport", TransportName)
async def test_a_relay_says_what_endpoints_it_knows(
    tmp_path: Path, transport: TransportName
) -> None:
    store = PoolStore()
    table = {key: Endpoint(key, key[:-5], 8000, "pod") for key in ENDPOINTS}
    pool = InferencePool(POOL, (("app", "model"),), (8000,))
    store.publish({POOL: PoolSnapshot(pool, EndpointTable(MappingProxyType(table), 1))})
    path = tmp_path / "relay.sock"
    settings = ServeSettings(pools=tmp_path, socket=path, transport=transport)
    plane = DataPlane(settings, store)
    await plane.start()
    try:
        async with asyncio.timeout(60):
            known = await known_on([path, tmp_path / "nobody.sock"], 20)
            assert {name: [*table.by_key] for name, table in known.items()} == {POOL: ENDPOINTS}
            assert await left_on([path]) is Left.SERVING
    finally:
        await plane.drain(0)
        await plane.close()


async def test_nobody_knows_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        assert await known_on([tmp_path / "nobody.sock"], 60) == {}


async def test_who_does_not_answer_knows_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(tmp_path / "held.sock"))
        held.listen()
        async with asyncio.timeout(60):
            assert await known_on([tmp_path / "held.sock"], 0.1) == {}


async def test_a_relay_of_a_version_that_was_never_asked_knows_nothing(tmp_path: Path) -> None:
    def accept(stream: Stream, path: str, _: object) -> StreamEvents:
        stream.finish(Status(12, f"{path} is not offered"))
        return NO_OWNER

    server = await NativeTransport().serve(str(tmp_path / "relay.sock"), accept)
    try:
        async with asyncio.timeout(60):
            assert await known_on([tmp_path / "relay.sock"], 20) == {}
    finally:
        await server.drain(0)
