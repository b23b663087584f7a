"""The ADS server of a pool that cooldowns: an endpoint that a pick waits for goes out at once."""

import asyncio
from pathlib import Path

import pytest

from epp_client.pool.store import PoolStore
from epp_client.xds import cooldowns
from epp_client.xds.state import EDS

from .talking_envoy import CLUSTER, POOL, publish, serving, talking_envoy


@pytest.mark.asyncio
async def test_a_pick_that_waits_ends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooldowns, "COOLDOWN_FACTOR", 1e9)
    # nothing would come before the test ends
    monkeypatch.setattr(cooldowns, "MAX_COOLDOWN", 3600.0)
    monkeypatch.setattr(cooldowns, "MAX_WANTED_COOLDOWN", 0.01)
    store, path = PoolStore(), tmp_path / "xds"
    async with asyncio.timeout(30), serving(store, path) as server, talking_envoy(path) as envoy:
        server.begin({})
        publish(store, 1)
        envoy.say(EDS, CLUSTER)
        envoy.say(EDS, CLUSTER, nonce=(await envoy.hears(EDS)).nonce)
        while store.snapshots[str(POOL.name)].acknowledged != 1:
            await asyncio.sleep(0.001)
        publish(store, 2)
        (stream,) = server._streams
        while stream.state.held != {CLUSTER}:
            await asyncio.sleep(0.001)
        server.want(["default/llama", "default/unknown"])
        second = await envoy.hears(EDS)
        assert b"10.0.0.2" in second.resources[0].value
