"""The sidecar is restarted and upgraded while the API server is away, or while its Pods change."""

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from chaos.installation import Installation
from chaos.load import ask
from chaos.source import ApiServer, SourceName
from chaos.workload import Ask
from epp_client.settings import TransportName
from tests.e2e.lifecycle import (
    ALL_ANSWERED,
    FAIL_OPEN,
    SMALL,
    SYNC_PATIENCE,
    Asking,
    impatient,
    installed,
    says_starting,
    session,
    status,
)

__all__ = ["session"]

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    ("transport", "ways"),
    # Killed with grpcio: see the next test.
    [(TransportName.NATIVE, ("upgraded", "killed")), (TransportName.GRPCIO, ("upgraded",))],
)
async def test_a_new_control_process_without_an_api_server_leaves_requests_to_the_old_workers(
    tmp_path: Path, session: aiohttp.ClientSession, transport: TransportName, ways: tuple[str, ...]
) -> None:
    """They know pools; until it does, its own workers would refuse everything."""
    async with installed(tmp_path, transport=transport, source=SourceName.API) as installation:
        api = installation.source
        assert isinstance(api, ApiServer)
        impatient(installation)
        await installation.start()
        for how in ways:
            asking = Asking(session, installation, SMALL)
            await asking.more(10)
            await api.kill()
            old = installation.worker_pids
            if how == "upgraded":
                installation.sidecar.signal(signal.SIGUSR2)
            else:
                await installation.kill_sidecar()
                await installation.start_sidecar()
            async with asyncio.timeout(60):
                while not await says_starting(session, installation):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(2 * SYNC_PATIENCE)
            await asking.more(10)
            await api.start_process()
            await api.connect()
            await installation.ready()
            await asking.more(10)
            assert await asking.stop() == ALL_ANSWERED, how
            await installation.workers_replaced(old)


@pytest.mark.parametrize(
    ("transport", "changes"),
    # Over both transports each pair of two values that can meet.
    [
        (
            TransportName.NATIVE,
            [("killed", "gone"), ("restarted", "back"), ("upgraded", "gone")],
        ),
        (
            TransportName.GRPCIO,
            [("killed", "gone"), ("restarted", "back"), ("upgraded", "back")],
        ),
    ],
    ids=["native", "grpcio"],
)
async def test_a_pod_that_comes_or_goes_while_control_processes_change_costs_nothing(
    tmp_path: Path,
    session: aiohttp.ClientSession,
    transport: TransportName,
    changes: list[tuple[str, str]],
) -> None:
    """The new one is the first to hear of it. Workers from before may still pick who has gone, and its own
    pick who is back: Envoy has to know both, before them."""
    async with installed(tmp_path, transport=transport, source=SourceName.API) as installation:
        await installation.start()
        for how, change in changes:
            outcomes = await pod_changes(session, installation, how, change)
            assert outcomes == ALL_ANSWERED, (how, change)


async def pod_changes(
    session: aiohttp.ClientSession, installation: Installation, how: str, change: str
) -> set[tuple[str, str]]:
    """A Pod comes or goes while control processes change; the outcomes of the requests meanwhile."""
    api = installation.source
    assert isinstance(api, ApiServer)
    every = installation.objects
    fewer = [item for item in every if item["metadata"]["name"] != "model-2"]
    before, after = (every, fewer) if change == "gone" else (fewer, every)
    await api.write(before)
    await installation.followed()
    asking = Asking(session, installation, FAIL_OPEN)
    await asking.more(10)
    await api.kill()
    await api.start_process()
    await api.write(after)
    if how == "upgraded":
        installation.sidecar.signal(signal.SIGUSR2)
        async with asyncio.timeout(60):
            while not await says_starting(session, installation):
                await asyncio.sleep(0.01)
        await api.connect()
    else:
        await (installation.kill_sidecar() if how == "killed" else installation.drain_sidecar())
        await api.connect()
        await installation.start_sidecar()
    await installation.followed()
    await installation.ready()
    await asking.more(50)
    return await asking.stop()


async def test_what_a_holder_keeps_waits_for_an_api_server_that_is_away_at_the_start(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """A restart without an API server: the requests wait, instead of being refused after some seconds."""
    async with installed(tmp_path, source=SourceName.API, hold=True) as installation:
        api = installation.source
        assert isinstance(api, ApiServer)
        impatient(installation)
        await installation.start()
        await installation.held()
        await api.link.down()
        assert await installation.drain_sidecar() == 0
        api.last_known.unlink(missing_ok=True)
        await installation.start_sidecar()
        async with asyncio.timeout(60):
            while not await says_starting(session, installation):
                await asyncio.sleep(0.05)
        asks = [Ask(n, pool, "1 MB", "", n) for n, pool in enumerate(("open", "close", "h2c"))]
        waiting = [asyncio.create_task(ask(session, installation.url, one, 90)) for one in asks]
        await asyncio.sleep(2 * SYNC_PATIENCE)
        await api.connect()
        lines = await asyncio.gather(*waiting)
        assert {
            (line["outcome"], line["reason"] + line["detail"]) for line in lines
        } == ALL_ANSWERED


@pytest.mark.parametrize("transport", TransportName)
async def test_a_restart_without_an_api_server_goes_on_from_what_was_known(
    tmp_path: Path, session: aiohttp.ClientSession, transport: TransportName
) -> None:
    async with installed(tmp_path, transport=transport, source=SourceName.API) as installation:
        api = installation.source
        assert isinstance(api, ApiServer)
        await installation.start()
        await installation.until(api.last_known.exists, "what is known is written")
        await api.kill()
        assert await installation.drain_sidecar() == 0
        await installation.start_sidecar()
        await installation.ready()
        for request in SMALL:
            line = await ask(session, installation.url, request)
            assert (line["outcome"], line["detail"]) == ("answered", "")
        _, said = await status(session, f"http://{installation.admin}/readyz")
        assert "serving the last known state" in said
        fewer = [item for item in installation.objects if item["metadata"]["name"] != "model-2"]
        await api.start_process()
        await api.write(fewer)
        await api.connect()
        await installation.followed()
        for request in SMALL:
            assert (await ask(session, installation.url, request))["outcome"] != "lost"
