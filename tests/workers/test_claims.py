"""Relay sockets that nobody serves are claimed at once; those that somebody serves never are."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings
from epp_client.workers.claims import Claims
from epp_client.workers.predecessor import Left, left_on
from epp_client.workers.supervisor import Workers


def connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(str(path))
    except OSError:
        made.close()
        raise
    return made


def test_what_nobody_serves_is_listened_on_and_keeps_what_connects(tmp_path: Path) -> None:
    absent, refusing = tmp_path / "absent.sock", tmp_path / "refusing.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(refusing))
    claims = Claims([absent, refusing])
    assert claims.others == [absent, refusing]
    assert not claims.any
    claims.claim()
    try:
        assert claims.others == []
        assert not claims.knocked
        with connected(absent), connected(refusing):
            assert claims.knocked
        taken = claims.take(absent)
        assert taken is not None
        taken.close()
        assert claims.others == [absent]
    finally:
        claims.close()
    assert not absent.exists()
    assert not refusing.exists()


@pytest.mark.parametrize("queue", ["empty", "full"])
def test_what_somebody_listens_on_is_left_to_them(tmp_path: Path, queue: str) -> None:
    path = tmp_path / "served.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = [connected(path)] if queue == "full" else []
        inode = path.stat().st_ino
        claims = Claims([path])
        claims.claim()
        assert claims.others == [path]
        assert path.stat().st_ino == inode
        for one in waiting:
            one.close()
    # they have gone
    claims.claim()
    assert claims.others == []
    claims.close()


def test_what_cannot_be_bound_is_left_to_who_says_why(tmp_path: Path) -> None:
    claims = Claims([tmp_path / "nowhere" / "relay.sock"])
    claims.claim()
    assert not claims.any


async def test_requests_in_claimed_sockets_are_kept(tmp_path: Path) -> None:
    assert await left_on([]) is Left.REFUSING
    assert await left_on([], claimed=True) is Left.KEEPING
    assert await left_on([tmp_path / "nobody.sock"], claimed=True) is Left.REFUSING


def settings(folder: Path, number: int = 1) -> ServeSettings:
    return ServeSettings(pools=folder, socket=folder / "relay.sock", workers=number)


async def test_a_worker_accepts_what_has_waited_in_the_claimed_socket(tmp_path: Path) -> None:
    claims = Claims(settings(tmp_path).sockets)
    claims.claim()
    path = tmp_path / "relay.sock"
    inode = path.stat().st_ino
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
    workers = Workers(settings(tmp_path), PoolStore(), lambda _: None, claims=claims)
    try:
        async with asyncio.timeout(60):
            await workers.start()
            assert path.stat().st_ino == inode
            # SETTINGS
            assert (await reader.readexactly(9))[3] == 4
    finally:
        writer.close()
        await workers.drain(1)
        await workers.close()
    assert not path.exists()


async def test_a_start_that_is_given_up_leaves_no_claimed_socket(tmp_path: Path) -> None:
    claims = Claims(settings(tmp_path, 2).sockets)
    claims.claim()
    workers = Workers(settings(tmp_path, 2), PoolStore(), lambda _: None, claims=claims)
    await workers.drain(0)
    await workers.close()
    assert not [*tmp_path.glob("*.sock")]


async def test_workers_have_followed_when_the_slowest_has(tmp_path: Path) -> None:
    workers = Workers(settings(tmp_path, 2), PoolStore(), lambda _: None)
    try:
        async with asyncio.timeout(60):
            await workers.start()
            await workers.followed()
            slow = workers.pids[1]
            os.kill(slow, signal.SIGSTOP)
            try:
                following = asyncio.create_task(workers.followed())
                await workers._slots[0].processes[0].followed()
                assert not following.done()
            finally:
                os.kill(slow, signal.SIGCONT)
            await following
            # who has gone picks nobody
            os.kill(slow, signal.SIGKILL)
            await workers.followed()
    finally:
        await workers.drain(1)
        await workers.close()
