"""SocketNames: what it makes of names that are there, gone, or somebody else's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from epp_client.wire import socket_names
from epp_client.wire.socket_file import BoundSocket, Held
from epp_client.wire.socket_names import SocketName, SocketNames


class Owner:
    """Binds one socket, and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times = 0
        self.bound: BoundSocket | None = None

    async def bind(self) -> None:
        bound = BoundSocket(str(self.path))
        bound.socket.listen()
        bound.take_place()
        if self.bound is not None:
            self.bound.close()
        self.bound = bound
        self.times += 1

    @property
    def name(self) -> SocketName:
        return SocketName(self.path, lambda: self.bound.inode if self.bound else None, self.bind)


class Watched:
    """One owner's name, watched, and all that was said about it."""

    def __init__(self, path: Path) -> None:
        self.owner = Owner(path)
        self.said: list[str] = []
        self.names = SocketNames([self.owner.name], lambda names: self.said.append(names.trouble))

    async def until(self, seen: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not seen():
                await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(socket_names, "POLL_INTERVAL", 0.005)
    found = Watched(tmp_path / "a.sock")
    await found.owner.bind()
    running = asyncio.create_task(found.names.run())
    yield found
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
    assert found.owner.bound is not None
    found.owner.bound.close()


async def test_a_removed_name_is_bound_again_and_said(watched: Watched) -> None:
    watched.owner.path.unlink()
    await watched.until(lambda: len(watched.said) == 2)
    assert watched.said == [f"{watched.owner.path} was removed; binding it again", ""]
    assert watched.owner.times == 2
    assert watched.owner.path.is_socket()


async def test_a_name_without_its_folder_is_tried_until_the_folder_is_back(
    watched: Watched, tmp_path: Path
) -> None:
    watched.owner.path.unlink()
    tmp_path.rmdir()
    await watched.until(lambda: "cannot be bound again" in watched.names.trouble)
    assert str(tmp_path) in watched.names.trouble
    tmp_path.mkdir()
    await watched.until(lambda: not watched.names.trouble)
    assert watched.owner.path.is_socket()


async def test_the_live_socket_of_another_process_is_not_taken(watched: Watched) -> None:
    watched.owner.path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(watched.owner.path))
        other.listen()
        inode = watched.owner.path.stat().st_ino
        times = watched.owner.times
        await watched.until(lambda: "another process" in watched.names.trouble)
        assert (watched.owner.times, watched.owner.path.stat().st_ino) == (times, inode)
    # It has gone and left its name behind.
    await watched.until(lambda: not watched.names.trouble)
    assert watched.owner.times == times + 1


async def test_a_name_that_is_given_up_is_left_alone(watched: Watched) -> None:
    bound, watched.owner.bound = watched.owner.bound, None
    assert bound is not None
    bound.close()
    await asyncio.sleep(0.1)
    assert (watched.owner.times, watched.said) == (1, [])
    await watched.owner.bind()


@pytest.mark.parametrize("ends", ["kept", "closed"])
def test_a_socket_of_the_holder_leaves_a_new_socket_of_the_same_name_alone(
    tmp_path: Path, ends: str
) -> None:
    path = str(tmp_path / "socket")
    left = BoundSocket(path)
    left.take_place()
    new = BoundSocket(path)
    held = BoundSocket(path, held=Held(left.socket.dup(), left.inode))
    if ends == "closed":
        held.close()
    new.take_place()
    assert new.named
    for bound in (left, new, held):
        bound.close()
    assert list(tmp_path.iterdir()) == []
