"""The sockets of relay workers outlive them: what comes meanwhile waits for the next worker."""

import asyncio
import errno
import hashlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable

import httpx
import psutil
import pytest
import pytest_asyncio

from epp_client.workers import supervisor
from epp_client.workers.process import WorkerProcess
from epp_client.workers.slot import Slot
from epp_client.workers.supervisor import Workers
from testbed.stack import Stack, running_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

Answer = tuple[int, bool]
"""Status, and whether the model server saw the very body."""


@pytest_asyncio.fixture(loop_scope="session")
async def lone() -> AsyncIterator[Stack]:
    async with running_stack(workers=1) as stack:
        yield stack


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """No worker is started until this is set."""
    may_start, spawn = asyncio.Event(), Workers._spawn

    async def spawn_later(self: Workers, slot: Slot) -> WorkerProcess:
        await may_start.wait()
        return await spawn(self, slot)

    monkeypatch.setattr(Workers, "_spawn", spawn_later)
    return may_start


def workers_of(stack: Stack) -> Workers:
    assert isinstance(stack.sidecar.relay, Workers)
    return stack.sidecar.relay


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not happened():
            await asyncio.sleep(0.01)


async def kill(workers: Workers, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pid not in workers.pids)


async def post(client: httpx.AsyncClient, stack: Stack, pool: str = "open") -> Answer:
    body = os.urandom(1_000_000)
    try:
        answer = await client.post(stack.pool_url(pool) + "/echo", content=body)
    except httpx.TransportError:
        return 0, False
    right = answer.status_code == 200 and (
        answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
    )
    return answer.status_code, right


async def open_picks(client: httpx.AsyncClient, stack: Stack) -> int:
    """Streams that Envoy has open to the sidecar's workers, or asks for."""
    name = "cluster.epp-client.upstream_rq_active$"
    text = (await client.get(f"{stack.envoy.admin}/stats", params={"filter": name})).text
    return int(text.rpartition(":")[2])


async def until_waiting(
    client: httpx.AsyncClient, stack: Stack, asked: "list[asyncio.Task[Answer]]"
) -> None:
    """All of `asked` wait for a worker."""
    async with asyncio.timeout(60):
        while await open_picks(client, stack) < len(asked):
            assert not any(task.done() for task in asked), [t.result() for t in asked if t.done()]


ANSWERED = {(200, True)}


async def test_large_bodies_that_come_while_their_worker_is_dead_wait_for_the_next(
    lone: Stack, client: httpx.AsyncClient, held: asyncio.Event
) -> None:
    over, workers = asyncio.Event(), workers_of(lone)

    async def stream() -> None:
        while not over.is_set():
            # in flight on the one that is killed: may fail
            await post(client, lone)

    streams = [asyncio.create_task(stream()) for _ in range(4)]
    assert await post(client, lone) == (200, True)
    await kill(workers, workers.pids[0])
    over.set()
    asked = [asyncio.create_task(post(client, lone)) for _ in range(8)]
    await until_waiting(client, lone, asked)
    held.set()
    assert set(await asyncio.gather(*asked)) == ANSWERED
    await asyncio.gather(*streams)
    assert (await workers.totals()).restarts == 1


async def until_refused(stack: Stack) -> None:
    (path,) = stack.sidecar.settings.sockets
    async with asyncio.timeout(60):
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) in (errno.ECONNREFUSED, errno.ENOENT):
                    return
            await asyncio.sleep(0.01)


async def test_a_place_that_stays_empty_refuses_until_it_is_filled(
    lone: Stack, client: httpx.AsyncClient, held: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "UNSERVED", 1.0)
    workers = workers_of(lone)
    assert await post(client, lone) == (200, True)
    await kill(workers, workers.pids[0])
    waiting = asyncio.create_task(post(client, lone))
    await until_waiting(client, lone, [waiting])
    await until_refused(lone)
    assert (await waiting)[0] == 503, "it failed when the socket did, not after Envoy's time"
    held.set()
    await until(lambda: workers.serving == 1)
    assert await post(client, lone) == (200, True)


async def test_a_worker_that_hangs_as_it_starts_is_given_up(
    lone: Stack, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "UNSERVED", 1.0)
    workers = workers_of(lone)
    await kill(workers, workers.pids[0])
    await until(lambda: bool(workers.pids))
    (hanging,) = workers.pids
    os.kill(hanging, signal.SIGSTOP)
    await until(lambda: workers.serving == 1 and hanging not in workers.pids)
    assert await post(client, lone) == (200, True)


@pytest.mark.parametrize("how", ["SIGHUP", "SIGTERM for the worker"])
async def test_large_bodies_never_miss_a_worker_that_is_replaced(
    lone: Stack, client: httpx.AsyncClient, how: str
) -> None:
    over, workers = asyncio.Event(), workers_of(lone)
    answers: list[Answer] = []

    async def stream() -> None:
        while not over.is_set():
            answers.append(await post(client, lone))

    streams = [asyncio.create_task(stream()) for _ in range(4)]
    for _ in range(3):
        old, seen = workers.pids, len(answers)
        if how == "SIGHUP":
            await lone.sidecar.replace_workers()
        else:
            os.kill(old[0], signal.SIGTERM)
        await until(lambda old=old: workers.serving == 1 and workers.pids != old)
        await until(lambda old=old: not set(old) & set(workers.all_pids))
        await until(lambda seen=seen: len(answers) > seen + 8)
    over.set()
    await asyncio.gather(*streams)
    assert set(answers) == ANSWERED
    assert (await workers.totals()).restarts == 0


async def test_a_name_that_was_removed_is_made_again(
    lone: Stack, client: httpx.AsyncClient
) -> None:
    workers = workers_of(lone)
    (path,) = lone.sidecar.settings.sockets
    before = path.stat()
    await lone.sidecar.replace_workers()
    assert path.stat().st_ino == before.st_ino, "one socket, one worker after the other"
    path.unlink()
    await lone.sidecar.replace_workers()
    assert path.stat().st_mode == before.st_mode
    path.unlink()
    old = workers.pids
    await kill(workers, old[0])
    await until(lambda: workers.serving == 1)
    assert path.is_socket()
    assert await post(client, lone) == (200, True)


async def test_nothing_of_a_socket_is_left(client: httpx.AsyncClient) -> None:
    async with running_stack(workers=2) as stack:
        (folder,) = {path.parent for path in stack.sidecar.settings.sockets}
        await stack.sidecar.replace_workers()
        assert {path.name for path in folder.glob("*ext-proc*")} == {
            "ext-proc-0.sock",
            "ext-proc-1.sock",
        }
        assert await post(client, stack) == (200, True)
        await stack.sidecar.stop(1)
        assert not [*folder.glob("*ext-proc*")]
        # This process has stacks of other tests as well.
        sockets = psutil.Process().net_connections("unix")
        listening = [c for c in sockets if str(folder) in c.laddr]
        assert not listening
