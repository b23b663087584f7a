"""The ADS server of a process that takes over: what Envoy is told, when, and who waits for it."""

import asyncio
from pathlib import Path

import pytest

from epp_client.pool.store import PoolStore
from epp_client.settings import UpstreamMode
from epp_client.xds.ads import AdsServer
from epp_client.xds.state import CDS, EDS

from .talking_envoy import (
    CLUSTER,
    POOL,
    TalkingEnvoy,
    publish,
    read_assignment,
    serving,
    table,
    talking_envoy,
)

pytestmark = pytest.mark.asyncio


async def connected(server: AdsServer, envoy: TalkingEnvoy) -> None:
    """An Envoy that has all from the process before subscribes anew."""
    envoy.say(CDS)
    envoy.say(EDS, CLUSTER)
    while not any(CLUSTER in stream.state.follows for stream in server._streams):
        await asyncio.sleep(0.001)


async def test_envoy_is_told_nothing_before_all_is_known_and_then_what_old_relays_may_pick_too(
    tmp_path: Path,
) -> None:
    store, path = PoolStore(), tmp_path / "xds"
    async with asyncio.timeout(30), serving(store, path) as server, talking_envoy(path) as envoy:
        publish(store, 2)
        await connected(server, envoy)
        assert store.snapshots[str(POOL.name)].acknowledged == -1
        told = asyncio.create_task(server.told(60))
        (stream,) = server._streams
        while stream.wake.is_set():
            await asyncio.sleep(0.001)
        # it has looked, and says nothing
        assert not stream.state.told
        server.begin({POOL.name: table(1)})
        clusters, endpoints = await envoy.hears(CDS), await envoy.hears(EDS)
        _, found = read_assignment(endpoints.resources[0].value)
        assert sorted(found) == [("10.0.0.1", 8000), ("10.0.0.2", 8000)]
        envoy.say(CDS, nonce=clusters.nonce)
        while stream.state._types[CDS].waiting:
            await asyncio.sleep(0.001)
        # clusters without their endpoints are not enough
        assert not told.done()
        envoy.say(EDS, CLUSTER, nonce=endpoints.nonce)
        await told
        assert store.snapshots[str(POOL.name)].acknowledged == 2


async def test_who_waits_for_envoy_waits_no_longer_than_its_patience(tmp_path: Path) -> None:
    async with asyncio.timeout(30), serving(PoolStore(), tmp_path / "xds") as server:
        await server.told(0.01)


async def test_nobody_waits_for_an_envoy_that_goes_wherever_it_is_sent(tmp_path: Path) -> None:
    mode = UpstreamMode.ORIGINAL_DST
    async with asyncio.timeout(30), serving(PoolStore(), tmp_path / "xds", mode) as server:
        await server.told(60)


async def test_envoy_keeps_who_has_left_until_every_relay_knows_of_it(tmp_path: Path) -> None:
    """Relays on a busy machine hear of a departure late, and pick meanwhile."""
    store, path = PoolStore(), tmp_path / "xds"
    asked, know = asyncio.Event(), asyncio.Event()

    async def followed() -> None:
        asked.set()
        await know.wait()

    async with (
        asyncio.timeout(30),
        serving(store, path, followed=followed) as server,
        talking_envoy(path) as envoy,
    ):
        publish(store, 1)
        server.begin({})
        await connected(server, envoy)
        await envoy.hears(CDS)
        envoy.say(EDS, CLUSTER, nonce=(await envoy.hears(EDS)).nonce)
        publish(store, 2)
        both = await envoy.hears(EDS)
        envoy.say(EDS, CLUSTER, nonce=both.nonce)
        assert len(read_assignment(both.resources[0].value)[1]) == 2
        # its time is up
        await asked.wait()
        publish(store, 3)
        now = await envoy.hears(EDS)
        envoy.say(EDS, CLUSTER, nonce=now.nonce)
        assert len(read_assignment(now.resources[0].value)[1]) == 3
        know.set()
        later = await envoy.hears(EDS)
        assert ("10.0.0.1", 8000) not in read_assignment(later.resources[0].value)[1]


async def test_an_envoy_that_has_gone_has_what_it_had(tmp_path: Path) -> None:
    """A new endpoint waits until it is connected again: its cluster would answer 503."""
    store, path = PoolStore(), tmp_path / "xds"
    async with asyncio.timeout(30), serving(store, path) as server:
        publish(store, 1)
        server.begin({})
        async with talking_envoy(path) as envoy:
            await connected(server, envoy)
            await envoy.hears(CDS)
            envoy.say(EDS, CLUSTER, nonce=(await envoy.hears(EDS)).nonce)
            while store.snapshots[str(POOL.name)].acknowledged != 1:
                await asyncio.sleep(0.001)
        while server._streams:
            await asyncio.sleep(0.001)
        publish(store, 2)
        snapshot = store.snapshots[str(POOL.name)]
        assert snapshot.acknowledged == 1
        assert not snapshot.routable("10.0.0.2:8000")
