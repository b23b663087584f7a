"""The sidecar as a process: it drains, dies, is restarted and upgraded under load.

The tests share an installation.
"""

import asyncio
import resource
import signal
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from chaos.installation import Installation
from chaos.load import ask
from chaos.promise import ENVOY_ASKS
from epp_client.settings import TransportName
from testbed.looks import ended, first_free_descriptor
from tests.e2e.lifecycle import (
    ALL_ANSWERED,
    SMALL,
    Asking,
    installed,
    kept_by,
    session,
    status,
    streaming,
)

__all__ = ["session"]

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, transport: TransportName
) -> AsyncIterator[Installation]:
    folder = tmp_path_factory.mktemp("shared")
    async with installed(folder, transport=transport) as installation:
        await installation.start()
        yield installation


@pytest_asyncio.fixture(loop_scope="session")
async def running(shared: Installation) -> Installation:
    """It serves, whether or not the test before has ended its sidecar."""
    if not shared.sidecar.running:
        await shared.start_sidecar()
    await shared.ready()
    return shared


async def test_a_restart_costs_no_small_request(
    running: Installation, session: aiohttp.ClientSession
) -> None:
    asking = Asking(session, running, SMALL)
    await asking.more(20)
    assert await running.drain_sidecar() == 0
    await running.start_sidecar()
    await running.ready()
    await asking.more(20)
    await asking.stop()
    # On a machine that takes longer for a start than Envoy asks, it gives up; never before.
    asked = [line for line in asking.lines if line["ended"] - line["began"] < ENVOY_ASKS]
    assert {(line["outcome"], line["detail"]) for line in asked} == ALL_ANSWERED


async def test_a_killed_control_process_costs_nothing(
    running: Installation, session: aiohttp.ClientSession
) -> None:
    """Its workers serve on, streams included, until the next one's have the sockets."""
    old = running.worker_pids
    stream = await streaming(session, running)
    asking = Asking(session, running, kept_by(running))
    await asking.more(10)
    await running.kill_sidecar()
    await asking.more(10)
    await running.start_sidecar()
    await running.ready()
    await asking.more(10)
    assert await asking.stop() == ALL_ANSWERED
    assert (await stream)["outcome"] == "answered"
    async with asyncio.timeout(60):
        while not all(map(ended, old)):
            await asyncio.sleep(0.05)


async def test_a_worker_that_dies_while_descriptors_are_short_is_replaced_later(
    running: Installation, session: aiohttp.ClientSession
) -> None:
    control, victim = running.sidecar.pid, running.worker_pids[0]
    limits = resource.prlimit(control, resource.RLIMIT_NOFILE)
    limit = (first_free_descriptor(control), limits[1])
    resource.prlimit(control, resource.RLIMIT_NOFILE, limit)
    running.signal(victim, signal.SIGKILL)
    await running.until(lambda: victim not in running.worker_pids, "the worker is gone")
    # by the other one
    assert (await ask(session, running.url, SMALL[0]))["outcome"] == "answered"
    resource.prlimit(control, resource.RLIMIT_NOFILE, limits)
    await running.workers_replaced([victim])
    await running.ready()


async def test_sigterm_drains_the_stream_goes_on_and_the_exit_code_is_0(
    running: Installation, session: aiohttp.ClientSession
) -> None:
    stream = await streaming(session, running)
    drain = asyncio.create_task(running.drain_sidecar())
    async with asyncio.timeout(60):
        while (seen := await status(session, f"http://{running.admin}/readyz"))[0] == 200:
            await asyncio.sleep(0.01)
    assert "draining" in seen[1]
    # xDS stays
    assert (await running.metrics())["epp_client_envoys_connected"] == 1
    assert not stream.done()
    line = await stream
    assert (line["outcome"], line["detail"]) == ("answered", "")
    assert await drain == 0, running.sidecar.tail


async def test_an_upgrade_costs_nothing(
    running: Installation, session: aiohttp.ClientSession
) -> None:
    """SIGUSR2: the same process, another program, other workers."""
    pid, old = running.sidecar.pid, running.worker_pids
    stream = await streaming(session, running)
    asking = Asking(session, running, kept_by(running))
    await asking.more(10)
    running.sidecar.signal(signal.SIGUSR2)
    await running.workers_replaced(old)
    await running.ready()
    await asking.more(10)
    assert await asking.stop() == ALL_ANSWERED
    assert (await stream)["outcome"] == "answered"
    assert running.sidecar.pid == pid
    assert await running.drain_sidecar() == 0, running.sidecar.tail
