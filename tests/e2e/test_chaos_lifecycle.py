"""The sidecar as a process: it starts in any order, drains, dies, is restarted and upgraded under load."""

import asyncio
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from chaos.installation import Installation
from chaos.load import ask
from chaos.promise import ENVOY_ASKS
from chaos.source import ApiServer, ManifestFolder, SourceName
from chaos.workload import Ask
from epp_client.settings import TransportName
from epp_client.sidecar import KEPT_PATIENCE, SYNC_PATIENCE
from testbed.looks import ended, first_free_descriptor

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

SMALL = [Ask(n, pool, "1 KB", "", n) for n, pool in enumerate(("open", "close", "h2c", "skip"))]
FAIL_OPEN = [request for request in SMALL if request.pool != "close"]
LARGE = [Ask(n, pool, "1 MB", "", n) for n, pool in enumerate(("open", "close"))]
STREAM = Ask(0, "close", "stream", "", 39, pause_ms=100)
"""A stream of 49 tokens: about 5 s."""
PAUSE = 0.05
"""Seconds between two requests of a client: load must not take the CPU that a start needs."""


PATIENT = ("--pick-timeout", "30")
"""A picker that a busy machine holds up has not failed."""


@asynccontextmanager
async def installed(
    folder: Path, *, options: tuple[str, ...] = (), **settings: Any
) -> AsyncIterator[Installation]:
    """An installation of which nothing runs yet; all that is started ends with it."""
    installation = Installation(folder, options=(*PATIENT, *options), **settings)
    try:
        yield installation
    finally:
        await installation.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def running(tmp_path: Path, transport: TransportName) -> AsyncIterator[Installation]:
    async with installed(tmp_path, transport=transport) as installation:
        await installation.start()
        yield installation


@pytest_asyncio.fixture(loop_scope="session")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


class Asking:
    """Requests one after the other, four at a time, until it is told to stop."""

    def __init__(
        self, session: aiohttp.ClientSession, installation: Installation, asks: list[Ask]
    ) -> None:
        self._over = asyncio.Event()
        self.lines: list[dict[str, Any]] = []
        self._session, self._url, self._asks = session, installation.url, asks
        self._tasks = [asyncio.create_task(self._load()) for _ in range(4)]

    async def _load(self) -> None:
        while not self._over.is_set():
            for request in self._asks:
                self.lines.append(await ask(self._session, self._url, request))
                await asyncio.sleep(PAUSE)

    async def more(self, count: int) -> None:
        """Until so many more have their answers."""
        wanted = len(self.lines) + count
        async with asyncio.timeout(60):
            while len(self.lines) < wanted:
                await asyncio.sleep(0.01)

    async def stop(self) -> set[tuple[str, str]]:
        """Every kind of outcome that there was, with its reason or what was wrong."""
        self._over.set()
        await asyncio.gather(*self._tasks)
        return {(line["outcome"], line["reason"] + line["detail"]) for line in self.lines}


ALL_ANSWERED = {("answered", "")}


def kept_by(installation: Installation) -> list[Ask]:
    """What no change of workers may cost: grpcio refuses what comes late, and Envoy keeps 64 KiB of it."""
    return SMALL if installation.transport is TransportName.GRPCIO else [*SMALL, *LARGE]


async def streaming(
    session: aiohttp.ClientSession, installation: Installation
) -> "asyncio.Task[dict[str, Any]]":
    """A stream that the sidecar is relaying."""
    task = asyncio.create_task(ask(session, installation.url, STREAM))
    async with asyncio.timeout(60):
        while not (await installation.metrics()).get("epp_client_in_flight"):
            await asyncio.sleep(0.02)
    return task


async def status(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.get(url) as answer:
        return answer.status, await answer.text()


# --- the end ---


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


async def test_the_drain_has_a_deadline(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    async with installed(tmp_path, options=("--drain-timeout", "0.5")) as installation:
        await installation.start()
        stream = await streaming(session, installation)
        assert await installation.drain_sidecar() == 0, installation.sidecar.tail
        assert (await stream)["outcome"] == "lost"


# --- the start ---


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
        await installation.start_peers()
        assert isinstance(installation.source, ManifestFolder)
        await installation.source.write("kind: [unclosed")
        await installation.start_sidecar()
        await installation.start_envoy()
        await installation.until(lambda: installation.relaying, "the relay listens all the same")
        code, why = await status(session, f"http://{installation.admin}/readyz")
        assert code == 503
        assert "pools" in why
        refused = await ask(session, installation.url, SMALL[0], KEPT_PATIENCE + 60)
        assert (refused["outcome"], refused["reason"]) == ("refused", "pool_not_synced")
        await installation.source.write(installation.objects)
        await installation.ready()
        assert (await ask(session, installation.url, SMALL[0]))["outcome"] == "answered"


# --- crash, restart, upgrade ---


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


@pytest.mark.parametrize(
    ("transport", "how"),
    # Killed with grpcio: see the next test.
    [
        *((transport, "upgraded") for transport in TransportName),
        (TransportName.NATIVE, "killed"),
    ],
)
async def test_a_new_control_process_without_an_api_server_leaves_requests_to_the_old_workers(
    tmp_path: Path, session: aiohttp.ClientSession, transport: TransportName, how: str
) -> None:
    """They know pools; until it does, its own workers would refuse everything."""
    async with installed(tmp_path, transport=transport, source=SourceName.API) as installation:
        api = installation.source
        assert isinstance(api, ApiServer)
        await installation.start()
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
        await asyncio.sleep(SYNC_PATIENCE + 2)
        await asking.more(10)
        await api.start_process()
        await api.connect()
        await installation.ready()
        await asking.more(10)
        assert await asking.stop() == ALL_ANSWERED
        await installation.workers_replaced(old)


@pytest.mark.parametrize(
    ("transport", "how", "change"),
    # Each pair of two values that can meet.
    [
        (TransportName.NATIVE, "upgraded", "gone"),
        (TransportName.GRPCIO, "upgraded", "back"),
        *((transport, "killed", "gone") for transport in TransportName),
        *((transport, "restarted", "back") for transport in TransportName),
    ],
)
async def test_a_pod_that_comes_or_goes_while_control_processes_change_costs_nothing(
    tmp_path: Path,
    session: aiohttp.ClientSession,
    transport: TransportName,
    how: str,
    change: str,
) -> None:
    """The new one is the first to hear of it. Workers from before may still pick who has gone, and its own
    pick who is back: Envoy has to know both, before them."""
    async with installed(tmp_path, transport=transport, source=SourceName.API) as installation:
        api = installation.source
        assert isinstance(api, ApiServer)
        await installation.start()
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
        assert await asking.stop() == ALL_ANSWERED


async def test_what_a_holder_keeps_waits_for_an_api_server_that_is_away_at_the_start(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """A restart without an API server: the requests wait, instead of being refused after some seconds."""
    async with installed(tmp_path, source=SourceName.API, hold=True) as installation:
        api = installation.source
        assert isinstance(api, ApiServer)
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
        await asyncio.sleep(SYNC_PATIENCE + 2)
        await api.connect()
        lines = await asyncio.gather(*waiting)
        assert {
            (line["outcome"], line["reason"] + line["detail"]) for line in lines
        } == ALL_ANSWERED


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


async def says_starting(session: aiohttp.ClientSession, installation: Installation) -> bool:
    """Whether a process that knows no pools yet has the admin page."""
    try:
        return (await status(session, f"http://{installation.admin}/readyz"))[0] == 503
    except aiohttp.ClientError:
        return False


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
