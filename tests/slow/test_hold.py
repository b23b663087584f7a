"""The relay's sockets outlive the sidecar in the hands of a holder: a restart loses no request."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from chaos.installation import Installation
from chaos.load import ask
from chaos.workload import Ask
from testbed.looks import ended
from testbed.process import Process
from tests.e2e.lifecycle import (
    ALL_ANSWERED,
    LARGE,
    SMALL,
    Asking,
    installed,
    status,
    streaming,
)

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

EVERY = [*SMALL, *LARGE]
Line = dict[str, Any]


class AskSlowPicker(Ask):
    """A request whose pick takes so long that none of it is answered when the sidecar is killed. Envoy
    cannot ask anew for what has been answered in part."""

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "x-picker-delay-ms": "5000"}


class Holding:
    """An installation with a holder, which is a process of its own."""

    def __init__(self, installation: Installation, path: Path) -> None:
        self.installation = installation
        self._path = path
        self.holder: Process | None = None

    async def start(self) -> None:
        command = (sys.executable, "-m", "epp_client", "hold", "--socket", str(self._path))
        self.holder = await Process.start(*command)
        await self.installation.until(lambda: reachable(self._path), "the holder listens")

    async def stop(self) -> None:
        if self.holder is not None:
            await self.holder.stop()

    async def kill(self) -> None:
        assert self.holder is not None
        await self.holder.kill()

    async def notes(self, session: aiohttp.ClientSession) -> str:
        """What the sidecar says beside that it is ready."""
        code, text = await status(session, f"http://{self.installation.admin}/readyz")
        assert code == 200
        return text.removeprefix("ok\n")

    async def held(self, session: aiohttp.ClientSession) -> None:
        """Until the holder has the sockets."""
        async with asyncio.timeout(60):
            while await self.notes(session):
                await asyncio.sleep(0.02)


def reachable(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest_asyncio.fixture(loop_scope="session")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as opened:
        yield opened


@asynccontextmanager
async def without_holder(folder: Path) -> AsyncIterator[Holding]:
    """Everything but the holder, which the sidecar looks for; nothing runs yet."""
    path = folder / "hold.sock"
    async with installed(folder, options=("--hold", str(path))) as installation:
        holding = Holding(installation, path)
        try:
            yield holding
        finally:
            await holding.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Holding]:
    """Each test leaves it with a sidecar that has been started."""
    async with without_holder(tmp_path_factory.mktemp("shared")) as holding:
        await holding.installation.start_peers()
        await holding.installation.start_sidecar()
        await holding.start()
        await holding.installation.start_envoy()
        yield holding


@pytest_asyncio.fixture(loop_scope="session")
async def holding(shared: Holding, session: aiohttp.ClientSession) -> Holding:
    await shared.installation.ready()
    await shared.held(session)
    await shared.installation.settled()
    return shared


async def waiting(
    session: aiohttp.ClientSession, installation: Installation, asks: list[Ask]
) -> "list[asyncio.Task[Line]]":
    """Requests that Envoy has sent to a socket that nobody serves."""
    tasks = [asyncio.create_task(ask(session, installation.url, one)) for one in asks]
    name = "cluster.epp-client.upstream_rq_active$"
    async with asyncio.timeout(60):
        while True:
            stats = await status(session, f"{installation.envoy.admin}/stats?filter={name}")
            assert not any(task.done() for task in tasks), [t.result() for t in tasks if t.done()]
            if int(stats[1].rpartition(":")[2]) >= len(tasks):
                return tasks
            await asyncio.sleep(0.02)


def outcomes(lines: list[Line]) -> set[tuple[str, str]]:
    return {(line["outcome"], line["reason"] + line["detail"]) for line in lines}


async def test_a_restart_costs_nothing(holding: Holding, session: aiohttp.ClientSession) -> None:
    """SIGTERM, then started: bodies of a megabyte come before, in between and after."""
    installation = holding.installation
    inodes = [path.stat().st_ino for path in installation.sockets]
    for _ in range(2):
        # first: nothing else is in flight
        stream = await streaming(session, installation)
        asking = Asking(session, installation, EVERY)
        await asking.more(20)
        assert await installation.drain_sidecar() == 0
        assert (await stream)["outcome"] == "answered"
        tasks = await waiting(session, installation, [*LARGE * 8, *SMALL * 50])
        await installation.start_sidecar()
        await installation.ready()
        await asking.more(20)
        assert await asking.stop() == ALL_ANSWERED
        assert outcomes(await asyncio.gather(*tasks)) == ALL_ANSWERED
        await holding.held(session)
        await installation.settled()
    assert [path.stat().st_ino for path in installation.sockets] == inodes


async def test_a_request_that_comes_while_a_stream_is_drained_waits_for_the_next_sidecar(
    holding: Holding, session: aiohttp.ClientSession
) -> None:
    installation = holding.installation
    stream = await streaming(session, installation)
    drain = asyncio.create_task(installation.drain_sidecar())
    async with asyncio.timeout(60):
        while (await status(session, f"http://{installation.admin}/readyz"))[0] == 200:
            await asyncio.sleep(0.01)
    tasks = []
    while not stream.done():
        tasks += [asyncio.create_task(ask(session, installation.url, one)) for one in EVERY]
        await asyncio.sleep(0.25)
    assert (await stream)["outcome"] == "answered"
    assert await drain == 0
    assert not all(task.done() for task in tasks), "they wait"
    await installation.start_sidecar()
    assert outcomes(await asyncio.gather(*tasks)) == ALL_ANSWERED


async def test_what_comes_after_the_whole_sidecar_was_killed_waits_for_the_next(
    holding: Holding, session: aiohttp.ClientSession
) -> None:
    """As when a container is killed. Envoy asks anew for what was in flight, as far as it has kept it."""
    installation = holding.installation
    kinds = ["0 B", "1 KB", "60 KB"] * 4
    slow = [AskSlowPicker(n, "close", kind, "slow", n) for n, kind in enumerate(kinds)]
    in_flight = [asyncio.create_task(ask(session, installation.url, one)) for one in slow]
    async with asyncio.timeout(60):
        while (await installation.metrics()).get("epp_client_in_flight") != len(slow):
            await asyncio.sleep(0.02)
    pids = [installation.sidecar.pid, *installation.worker_pids]
    for pid in pids:
        installation.signal(pid, signal.SIGKILL)
    await installation.sidecar.exited()
    async with asyncio.timeout(60):
        # until then they may be given requests
        while not all(map(ended, pids[1:])):
            await asyncio.sleep(0.02)
    tasks = await waiting(session, installation, [*LARGE * 4, *SMALL])
    await installation.start_sidecar()
    await installation.ready()
    assert outcomes(await asyncio.gather(*tasks)) == ALL_ANSWERED
    assert outcomes(await asyncio.gather(*in_flight)) == ALL_ANSWERED


@pytest.mark.parametrize("how", ["upgraded", "killed"])
async def test_workers_that_are_left_behind_leave_a_socket_that_the_next_ones_share(
    holding: Holding, session: aiohttp.ClientSession, how: str
) -> None:
    installation = holding.installation
    inodes = [path.stat().st_ino for path in installation.sockets]
    old = installation.worker_pids
    stream = await streaming(session, installation)
    asking = Asking(session, installation, EVERY)
    await asking.more(10)
    if how == "upgraded":
        installation.sidecar.signal(signal.SIGUSR2)
        await installation.workers_replaced(old)
    else:
        await installation.sidecar.kill()
        await asking.more(10)
        await installation.start_sidecar()
    await installation.ready()
    async with asyncio.timeout(60):
        while not all(map(ended, old)):
            await asyncio.sleep(0.05)
    await asking.more(10)
    assert await asking.stop() == ALL_ANSWERED
    assert (await stream)["outcome"] == "answered"
    assert [path.stat().st_ino for path in installation.sockets] == inodes
    await holding.held(session)
    assert await installation.drain_sidecar() == 0, installation.sidecar.tail
    tasks = await waiting(session, installation, LARGE)
    await installation.start_sidecar()
    assert outcomes(await asyncio.gather(*tasks)) == ALL_ANSWERED


async def test_a_holder_may_come_late_and_be_replaced(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with without_holder(tmp_path) as bare:
        installation = bare.installation
        await installation.start()
        assert "no holder at" in await bare.notes(session)
        await bare.start()
        await bare.held(session)
        asking = Asking(session, installation, EVERY)
        await bare.kill()
        async with asyncio.timeout(60):
            while (
                "it has disconnected" not in (said := await bare.notes(session))
                and "no holder" not in said
            ):
                await asyncio.sleep(0.02)
        await asking.more(10)
        await bare.start()
        await bare.held(session)
        assert await installation.drain_sidecar() == 0
        tasks = await waiting(session, installation, LARGE)
        await installation.start_sidecar()
        await installation.ready()
        await asking.more(10)
        assert await asking.stop() == ALL_ANSWERED
        assert outcomes(await asyncio.gather(*tasks)) == ALL_ANSWERED
