"""The sidecar as a process starts in any order with what it talks to, and ends in time."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from chaos.load import ask
from chaos.source import ManifestFolder
from tests.e2e.lifecycle import SMALL, impatient, installed, session, status, streaming

__all__ = ["session"]

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


async def test_the_drain_has_a_deadline(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with installed(tmp_path, options=("--drain-timeout", "0.5")) as installation:
        await installation.start()
        stream = await streaming(session, installation)
        assert await installation.drain_sidecar() == 0, installation.sidecar.tail
        assert (await stream)["outcome"] == "lost"


async def test_envoy_may_start_first(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with installed(tmp_path) as installation:
        await installation.start_peers()
        await installation.start_envoy()
        early = asyncio.create_task(ask(session, installation.url, SMALL[1]))
        await installation.start_sidecar()
        await installation.ready()
        # Envoy has no cluster for the pool yet when this one comes, nor just after it has connected.
        assert (await early)["outcome"] in ("answered", "lost")
        async with asyncio.timeout(60):
            while (await ask(session, installation.url, SMALL[1]))["outcome"] != "answered":
                await asyncio.sleep(0.05)
        assert (await ask(session, installation.url, SMALL[1]))["outcome"] == "answered"


async def test_the_picker_may_start_last(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with installed(tmp_path) as installation:
        await installation.start_peers()
        for name in installation.links:
            await installation.pickers[name].kill()
            await installation.links[name].down()
        await installation.start_sidecar()
        await installation.start_envoy()
        await installation.ready()
        assert (await ask(session, installation.url, SMALL[0]))["outcome"] == "answered"
        refused = await ask(session, installation.url, SMALL[1])
        assert (refused["outcome"], refused["reason"]) == ("refused", "picker_unreachable")
        await installation.start_picker("close")
        async with asyncio.timeout(60):
            while (await ask(session, installation.url, SMALL[1]))["outcome"] != "answered":
                await asyncio.sleep(0.05)


async def test_not_ready_until_the_manifests_can_be_read(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with installed(tmp_path) as installation:
        impatient(installation, KEPT_PATIENCE=3.0)
        await installation.start_peers()
        assert isinstance(installation.source, ManifestFolder)
        await installation.source.write("kind: [unclosed")
        await installation.start_sidecar()
        await installation.start_envoy()
        await installation.until(lambda: installation.relaying, "the relay listens all the same")
        code, why = await status(session, f"http://{installation.admin}/readyz")
        assert code == 503
        assert "pools" in why
        refused = await ask(session, installation.url, SMALL[0], 90)
        assert (refused["outcome"], refused["reason"]) == ("refused", "pool_not_synced")
        await installation.source.write(installation.objects)
        await installation.ready()
        assert (await ask(session, installation.url, SMALL[0]))["outcome"] == "answered"
