"""A start on a slow machine: whatever takes long, the requests that come meanwhile wait and are served.

Load is simulated by delays at chosen steps, so that it loses what it would lose on every machine.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest

from chaos.installation import Installation
from chaos.load import ask
from chaos.promise import ENVOY_ASKS
from chaos.source import ApiServer, SourceName
from chaos.workload import Ask
from epp_client.settings import TransportName
from testbed.link import until_one_ends
from tests.slow.delayed import IMPORTS, STEPS

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

DELAY = 2 * ENVOY_ASKS
"""Seconds: longer than Envoy asks for a pick where nobody listens."""
BOUND = 120.0
"""Seconds that our clients wait for an answer."""
SLOW = [IMPORTS, *STEPS]
FAIL_OPEN = [Ask(n, pool, "1 KB", "", n) for n, pool in enumerate(("open", "h2c", "skip"))]


@asynccontextmanager
async def installed(
    folder: Path, transport: TransportName = TransportName.NATIVE
) -> AsyncIterator[Installation]:
    """An installation with an API server of which nothing runs yet."""
    installation = Installation(
        folder, transport=transport, source=SourceName.API, models_together=True
    )
    try:
        yield installation
    finally:
        await installation.stop()


async def asked(installation: Installation, count: int) -> set[tuple[str, str]]:
    """So many requests of each kind at once: every outcome that there was."""
    async with aiohttp.ClientSession() as session:
        lines = await asyncio.gather(
            *(
                ask(session, installation.url, request, BOUND)
                for request in FAIL_OPEN
                for _ in range(count)
            )
        )
    return {(line["outcome"], line["reason"] + line["detail"]) for line in lines}


def without_one_pod(installation: Installation) -> list[dict[str, object]]:
    """What there is, but for a model server."""
    return [item for item in installation.objects if item["metadata"]["name"] != "model-2"]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """These processes do nothing until the end of the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


ALL_ANSWERED = {("answered", "")}


# Two installations, so that two processes share the waits.
@pytest.mark.parametrize("steps", [SLOW[::2], SLOW[1::2]], ids=" and ".join)
async def test_no_step_of_a_start_is_so_slow_that_it_costs_a_request(
    tmp_path: Path, steps: list[str]
) -> None:
    async with installed(tmp_path) as installation:
        await installation.start()
        for step in steps:
            assert await installation.drain_sidecar() == 0
            installation.program = ["tests.slow.delayed", f"{step}={DELAY}"]
            await installation.start_sidecar()
            await installation.until(lambda: installation.relaying, "the sockets are claimed")
            assert await asked(installation, 4) == ALL_ANSWERED, step


async def test_grpcio_has_what_came_during_a_slow_start_asked_once_more(tmp_path: Path) -> None:
    """Its workers bind their sockets themselves: what waits in the claimed ones is reset then."""
    async with installed(tmp_path, TransportName.GRPCIO) as installation:
        await installation.start()
        assert await installation.drain_sidecar() == 0
        installation.program = ["tests.slow.delayed", f"lists={DELAY}"]
        await installation.start_sidecar()
        await installation.until(lambda: installation.relaying, "the sockets are claimed")
        assert await asked(installation, 4) == ALL_ANSWERED


class Cable:
    """Between Envoy and the sidecar's ADS socket; carries nothing until it is plugged in."""

    def __init__(self, path: Path, target: Path) -> None:
        self._path, self._target = path, target
        self._plugged = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None

    async def __aenter__(self) -> "Cable":
        self._server = await asyncio.start_unix_server(self._connected, str(self._path))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def plug(self) -> None:
        """Carry what waits, and all that comes."""
        self._plugged.set()

    def unplug(self) -> None:
        """Carry no new connection."""
        self._plugged.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._plugged.wait()
            there, back = await asyncio.open_unix_connection(str(self._target))
            try:
                await until_one_ends(_carry(reader, back), _carry(there, writer))
            finally:
                back.close()
        except OSError:
            # nobody is there yet
            pass
        finally:
            self._open.discard(task)
            writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def test_an_envoy_that_is_slow_to_ask_for_endpoints_gets_no_request_for_one_it_does_not_have(
    tmp_path: Path,
) -> None:
    """A Pod has come while the sidecar was away, and Envoy hears of it late: requests wait for that."""
    ads = tmp_path / "late.sock"
    async with installed(tmp_path) as installation, Cable(ads, tmp_path / "xds.sock") as cable:
        api = installation.source
        assert isinstance(api, ApiServer)
        installation.ads_socket = ads
        cable.plug()
        await installation.start()
        await api.write(without_one_pod(installation))
        await installation.followed()
        cable.unplug()
        assert await installation.drain_sidecar() == 0
        await api.write(installation.objects)
        await installation.start_sidecar()
        asking = asyncio.create_task(asked(installation, 8))
        await installation.followed()
        await asyncio.wait(
            {asking},
            timeout=2,
            # four times what is waited for an Envoy that is not there
        )
        assert not asking.done()
        cable.plug()
        assert await asking == ALL_ANSWERED


async def test_workers_that_are_slow_to_say_what_they_may_pick_are_heard_all_the_same(
    tmp_path: Path,
) -> None:
    """A Pod has gone, as the new control process knows and they do not: they go on picking it."""
    async with installed(tmp_path) as installation:
        api = installation.source
        assert isinstance(api, ApiServer)
        await installation.start()
        assert await asked(installation, 4) == ALL_ANSWERED
        old = installation.worker_pids
        installation.program = ["tests.slow.delayed", f"workers={DELAY}"]
        await installation.kill_sidecar()
        await api.write(without_one_pod(installation))
        with stopped(old):
            await installation.start_sidecar()
            await installation.followed()
            # Less than Envoy waits for a silent relay, and more than the 5 s that we once waited.
            await asyncio.sleep(ENVOY_ASKS)
        assert await asked(installation, 8) == ALL_ANSWERED
