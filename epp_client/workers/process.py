"""WorkerProcess: one relay worker as the control process sees it. Started, fed, counted, watched, ended.

Who takes its place, and when, is for the supervisor.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection

import structlog

from epp_client.data_plane.plane import Inherited
from epp_client.errors import SettingsError
from epp_client.metrics.counters import Counters
from epp_client.pool.delta import difference
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings
from epp_client.wire.socket_file import BoundSocket
from epp_client.workers.channel import (
    Channel,
    Configure,
    Count,
    Counted,
    Drain,
    Failed,
    Forget,
    Leaving,
    Pools,
    Serving,
    Wanted,
)

log = structlog.get_logger(__name__)

COUNT_INTERVAL = 1.0
"""Seconds between the counts: what a killed worker's counters may lose."""
HUNG_AFTER = 10.0
"""Seconds without an answer after which a worker is killed and replaced."""
REST = 50.0
"""Seconds of rest for each second spent on the last change of pools."""
LONGEST_REST = 0.1
_EXITING = 3.0
"""Seconds for a process to exit once its drain is over."""

Want = Callable[[Collection[str]], None]
"""Told of pools of which picks wait for endpoints."""


class WorkerProcess:
    """One relay worker, from its start to its exit code."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        code: "asyncio.Future[int]",
        channel: Channel,
        store: PoolStore,
        want: Want,
        bound: BoundSocket | None,
    ) -> None:
        self.bound = bound
        """What it listens on, if it has not bound that itself. Others listen on it before and after."""
        self._process = process
        self._code = code
        self._want = want
        self._channel = channel
        self._store = store
        self._told: dict[str, PoolSnapshot] = {}
        self._untold: set[str] = set(store.snapshots)
        self._news = asyncio.Event()
        self._fed = asyncio.Event()
        """Set, and forgotten, when it has been told all that was untold."""
        if store.synced:
            self._news.set()
        self._number = 0
        self._questions: dict[int, asyncio.Future[None]] = {}
        self.counters = Counters()
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done once it listens; SettingsError when it cannot."""
        self.ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.leaving: asyncio.Future[None] = loop.create_future()
        """Done when it was told to end by somebody else; cancelled when it has exited."""
        self.exited = asyncio.create_task(self._run())
        """Its exit code; everything of it is gone by then."""

    @classmethod
    async def start(
        cls,
        index: int,
        settings: ServeSettings,
        store: PoolStore,
        want: Want,
        bound: BoundSocket | None,
    ) -> "WorkerProcess":
        """Start the process; it is `ready` later.

        Raises:
            OSError: there is no descriptor, memory or process left for it.
        """
        with contextlib.ExitStack() as unless_started, contextlib.ExitStack() as given:
            inherited, passed = None, list[int]()
            # a duplicate: `bound` may be closed while the process starts
            if bound is not None:
                listening = given.enter_context(bound.socket.dup())
                inherited = Inherited(listening.fileno(), bound.inode)
                passed.append(listening.fileno())
            ours, theirs = socket.socketpair()
            unless_started.callback(ours.close)
            given.enter_context(theirs)
            channel = await Channel.open(ours)
            process, code = _started(theirs.fileno(), *passed)
            unless_started.pop_all()
        worker = cls(process, code, channel, store, want, bound)
        await channel.send(Configure(index, settings, store.synced, inherited))
        return worker

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def pools_changed(self, names: set[str]) -> None:
        """Tell it when it has read what it was told before."""
        self._untold |= names
        self._news.set()

    async def followed(self) -> None:
        """Until it has taken in what the store has now, or is gone."""
        asking = asyncio.create_task(self._has_followed())
        try:
            await asyncio.wait({asking, self.exited}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _has_followed(self) -> None:
        if self._untold:
            await self._fed.wait()
        # it reads one message after the other
        await self.count()

    async def count(self) -> None:
        """Have `counters` brought up to date.

        Raises:
            OSError: it is gone.
        """
        self._number += 1
        number = self._number
        answered = self._questions[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(Count(number))
            await answered
        finally:
            self._questions.pop(number, None)

    async def forget(self, pool: str) -> None:
        """Its counters of a deleted pool are not needed any more."""
        await self._send(Forget(pool))

    async def drain(self, timeout: float) -> None:
        """Finish the open streams within `timeout` seconds and exit; killed if it does not."""
        await self._send(Drain(timeout))
        await asyncio.wait({self.exited}, timeout=timeout + _EXITING)
        self.kill()
        await asyncio.wait({self.exited})

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _send(self, message: object) -> None:
        # `exited` tells
        with contextlib.suppress(OSError):
            await self._channel.send(message)

    async def _run(self) -> int:
        """Read, feed and watch it until it exits."""
        tasks = [asyncio.create_task(work()) for work in (self._read, self._feed, self._watch)]
        try:
            code = await self._code
            # its last words
            await asyncio.wait(tasks[:1], timeout=_EXITING)
            return code
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for question in self._questions.values():
                question.cancel()
            if not self.ready.done():
                self.ready.set_exception(SettingsError("a relay worker died as it started"))
            self.leaving.cancel()
            self._channel.close()

    async def _read(self) -> None:
        while (message := await self._channel.receive()) is not None:
            match message:
                case Serving() if not self.ready.done():
                    self._listens()
                case Leaving() if not self.leaving.done():
                    self.leaving.set_result(None)
                case Failed(text) if not self.ready.done():
                    self.ready.set_exception(SettingsError(text))
                case Wanted(pools):
                    self._want(pools)
                case Counted(number, counters):
                    self.counters = counters
                    if (question := self._questions.pop(number, None)) is not None:
                        question.set_result(None)
        # it waits for that, once it has said its last words
        self._channel.close()

    def _listens(self) -> None:
        try:
            if self.bound is not None:
                self.bound.take_place()
        except OSError as error:
            self.ready.set_exception(SettingsError(str(error)))
            self.kill()
        else:
            self.ready.set_result(None)

    async def _feed(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            self._news.clear()
            began = loop.time()
            names, self._untold = self._untold, set()
            changed, gone = [], []
            for name in names:
                snapshot = self._store.snapshots.get(name)
                if snapshot is None:
                    if self._told.pop(name, None) is not None:
                        gone.append(name)
                    continue
                changed.append(difference(self._told.get(name), snapshot))
                self._told[name] = snapshot
            fed, self._fed = self._fed, asyncio.Event()
            await self._send(Pools(tuple(changed), tuple(gone)))
            fed.set()
            # To find a change among thousands of endpoints takes about a millisecond.
            await asyncio.sleep(min(LONGEST_REST, REST * (loop.time() - began)))

    async def _watch(self) -> None:
        await asyncio.wait({self.ready})
        while True:
            try:
                async with asyncio.timeout(HUNG_AFTER):
                    await self.count()
            except TimeoutError:
                log.error("a relay worker hangs and is killed", pid=self.pid)
                self.kill()
                return
            await asyncio.sleep(COUNT_INTERVAL)


def _started(channel: int, *passed: int) -> "tuple[subprocess.Popen[bytes], asyncio.Future[int]]":
    """A worker's process, given these descriptors, and its exit code, which a thread waits for.

    Not by the event loop: uvloop starts processes with no signal blocked, and one that comes before the
    worker has its handlers would end it. Our own children have blocked what we have.

    Raises:
        OSError: there is no descriptor, memory, process or thread left for it.
    """
    loop = asyncio.get_running_loop()
    code: asyncio.Future[int] = loop.create_future()
    process = subprocess.Popen(
        [sys.executable, "-m", "epp_client.workers.worker", str(channel)],
        stdin=subprocess.DEVNULL,
        pass_fds=(channel, *passed),
        # a terminal's Ctrl-C is for the control process
        start_new_session=True,
    )

    def tell(ended: int) -> None:
        if not code.cancelled():
            code.set_result(ended)

    def wait() -> None:
        ended = process.wait()
        # the loop has ended before it
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, ended)

    try:
        threading.Thread(target=wait, name=f"worker {process.pid}", daemon=True).start()
    except RuntimeError as error:
        process.kill()
        process.wait()
        raise OSError(str(error)) from error
    return process, code
