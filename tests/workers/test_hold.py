"""Relay workers whose sockets a holder has: what is taken up, what is left behind, what is given up."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from epp_client.hold.packets import FREE, TAKEN
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings
from epp_client.workers import hold, supervisor
from epp_client.workers.process import WorkerProcess
from epp_client.workers.slot import Slot
from epp_client.workers.supervisor import Workers
from tests.hold.running import Running


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as owner:
        yield Running(tmp_path, 60, owner)


@asynccontextmanager
async def workers(folder: Path, number: int = 1) -> AsyncIterator[Workers]:
    """Relay workers that serve; at the end of the block they have drained."""
    settings: dict[str, Any] = {
        "pools": folder,
        "socket": folder / "relay.sock",
        "hold": folder / "hold.sock",
        "workers": number,
    }
    made = Workers(ServeSettings.model_validate(settings), PoolStore(), lambda _: None)
    try:
        await made.start()
        yield made
    finally:
        await made.drain(1)
        await made.close()


async def offered(holder: Running, offers: dict[Path, str]) -> None:
    """Until the holder has just these."""
    peer = await asyncio.to_thread(holder.until_offered, offers)
    peer.close()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not happened():
            await asyncio.sleep(0.01)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"hold.sock"}


async def test_the_next_ones_take_up_the_very_socket(holder: Running) -> None:
    path = holder.folder / "relay.sock"
    async with workers(holder.folder):
        inode = path.stat().st_ino
        await offered(holder, {path: TAKEN})
    assert names(holder.folder) == {"relay.sock"}
    await offered(holder, {path: FREE})
    async with workers(holder.folder) as second:
        assert path.stat().st_ino == inode
        assert second.unheld == ""
        await offered(holder, {path: TAKEN})


async def test_another_number_of_workers_leaves_no_socket_that_nobody_serves(
    holder: Running,
) -> None:
    one, two = (holder.folder / f"relay-{index}.sock" for index in range(2))
    async with workers(holder.folder, 2):
        await offered(holder, {one: TAKEN, two: TAKEN})
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(two))
        async with workers(holder.folder, 1):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            await offered(holder, {holder.folder / "relay.sock": TAKEN})
            assert names(holder.folder) == {"relay.sock"}


async def test_a_name_that_was_removed_meanwhile_is_made_again(holder: Running) -> None:
    path = holder.folder / "relay.sock"
    async with workers(holder.folder):
        await offered(holder, {path: TAKEN})
    path.unlink()
    async with workers(holder.folder):
        inode = path.stat().st_ino
        await offered(holder, {path: TAKEN})
    async with workers(holder.folder):
        assert path.stat().st_ino == inode, "the holder has the new one"


async def test_a_start_that_fails_leaves_them_where_they_are(holder: Running) -> None:
    one, two = (holder.folder / f"relay-{index}.sock" for index in range(2))
    async with workers(holder.folder, 2):
        await offered(holder, {one: TAKEN, two: TAKEN})
    inode = one.stat().st_ino
    two.unlink()
    two.write_text("somebody's file")
    with pytest.raises(FileExistsError):
        async with workers(holder.folder, 2):
            pass
    await offered(holder, {one: FREE, two: FREE})
    assert one.stat().st_ino == inode
    two.unlink()
    async with workers(holder.folder, 2):
        assert one.stat().st_ino == inode


async def test_the_sockets_of_a_sidecar_that_lives_are_not_taken(holder: Running) -> None:
    path = holder.folder / "relay.sock"
    async with workers(holder.folder) as first:
        inode = path.stat().st_ino
        await offered(holder, {path: TAKEN})
        async with workers(holder.folder):
            await until(lambda: path.stat().st_ino != inode)
            assert first.serving == 1


async def test_a_place_that_stays_empty_is_given_up_by_the_holder_too(
    holder: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = holder.folder / "relay.sock"
    may_start, spawn = asyncio.Event(), Workers._spawn

    async def spawn_later(self: Workers, slot: Slot) -> WorkerProcess:
        await may_start.wait()
        return await spawn(self, slot)

    async with workers(holder.folder) as running:
        await offered(holder, {path: TAKEN})
        monkeypatch.setattr(supervisor, "UNSERVED", 0.2)
        monkeypatch.setattr(Workers, "_spawn", spawn_later)
        os.kill(running.pids[0], signal.SIGKILL)
        await offered(holder, {})
        assert not path.exists()
        may_start.set()
        await until(lambda: running.serving == 1)
        await offered(holder, {path: TAKEN})


async def test_one_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "GREETING", 0.2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.bind(str(tmp_path / "hold.sock"))
        silent.listen()
        async with workers(tmp_path) as running:
            assert running.serving == 1
            assert "it does not answer" in running.unheld
    assert names(tmp_path) == set(), "nobody else has the socket: its name goes with it"
