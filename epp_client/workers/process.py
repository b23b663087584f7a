"""WorkerProcess: the control process's side of one relay worker, which starts, updates, watches and ends
it.

The supervisor decides about replacements.
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
from epp_client.metrics.decisions import Gathered
from epp_client.pool.delta import difference
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings
from epp_client.wakeups import pause
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
    LogLevel,
    Pools,
    Serving,
    Wanted,
)

log = structlog.get_logger(__name__)

COUNT_INTERVAL = 1.0
"""Seconds between two reads of the counters; a killed worker loses what it counted since the last."""
HUNG_AFTER = 10.0
"""Seconds without an answer after which a worker is killed and replaced."""
COOLDOWN_FACTOR = 50.0
"""Seconds of pause for each second spent on the last change of pools."""
MAX_COOLDOWN = 0.1
"""Seconds of the longest pause."""
_EXITING = 3.0
"""Seconds for a process to exit after its drain."""

Want = Callable[[Collection[str]], None]
"""Called with the pools that have a pick waiting for an endpoint."""


class WorkerProcess:
    """One relay worker, from its start to its exit code."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        code: "asyncio.Future[int]",
        channel: Channel,
        store: PoolStore,
        want: Want,
        gathered: Gathered,
        bound: BoundSocket | None,
    ) -> None:
        self.bound = bound
        """The socket that it was given, which earlier and later workers share; None if it binds one
        itself."""
        self._process = process
        self._code = code
        self._want = want
        self._gathered = gathered
        self._channel = channel
        self._store = store
        self._told: dict[str, PoolSnapshot] = {}
        self._untold: set[str] = set(store.snapshots)
        self._news = asyncio.Event()
        self._fed = asyncio.Event()
        """Set, and replaced, once all changed pools have been sent."""
        if store.synced:
            self._news.set()
        self._number = 0
        self._questions: dict[int, asyncio.Future[None]] = {}
        self.counters = Counters()
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done once it listens, or with a SettingsError if it cannot."""
        self.ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.leaving: asyncio.Future[None] = loop.create_future()
        """Done if another process sent it SIGTERM; cancelled when it exits."""
        self.exited = asyncio.create_task(self._run())
        """Returns its exit code, after all its tasks have ended."""

    @classmethod
    async def start(
        cls,
        index: int,
        settings: ServeSettings,
        store: PoolStore,
        want: Want,
        gathered: Gathered,
        bound: BoundSocket | None,
    ) -> "WorkerProcess":
        """Start the process, which becomes `ready` later. `gathered` gets its news.

        Raises:
            OSError: no descriptor, memory or process is free.
        """
        with contextlib.ExitStack() as unless_started, contextlib.ExitStack() as given:
            inherited, passed = None, list[int]()
            # A duplicate, as `bound` may be closed while the process starts.
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
        worker = cls(process, code, channel, store, want, gathered, bound)
        await channel.send(Configure(index, settings, store.synced, inherited))
        return worker

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def pools_changed(self, names: set[str]) -> None:
        """Send changes of these pools, once it has read the earlier ones."""
        self._untold |= names
        self._news.set()

    async def followed(self) -> None:
        """Wait until it has applied the current state of the store, or has exited."""
        asking = asyncio.create_task(self._has_followed())
        try:
            await asyncio.wait({asking, self.exited}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _has_followed(self) -> None:
        if self._untold:
            await self._fed.wait()
        # It processes messages in order, so an answer means that it has applied the pools.
        await self.count()

    async def count(self) -> None:
        """Update `counters`.

        Raises:
            OSError: it has exited.
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
        """Drop its counters of a deleted pool."""
        await self._send(Forget(pool))

    async def log_at(self, level: str) -> None:
        """Change its log level."""
        await self._send(LogLevel(level))

    async def drain(self, timeout: float) -> None:
        """Tell it to finish its open streams and exit within `timeout` seconds; then kill it."""
        await self._send(Drain(timeout))
        await asyncio.wait({self.exited}, timeout=timeout + _EXITING)
        self.kill()
        await asyncio.wait({self.exited})

    def kill(self) -> None:
        """Kill it now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _send(self, message: object) -> None:
        # If it has exited, `exited` reports that.
        with contextlib.suppress(OSError):
            await self._channel.send(message)

    async def _run(self) -> int:
        """Read its messages, send changes and watch it until it exits."""
        tasks = [asyncio.create_task(work()) for work in (self._read, self._feed, self._watch)]
        try:
            code = await self._code
            # Read its last messages.
            await asyncio.wait(tasks[:1], timeout=_EXITING)
            return code
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for question in self._questions.values():
                question.cancel()
            if not self.ready.done():
                self.ready.set_exception(SettingsError("a relay worker exited during its start"))
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
                case Counted(number, counters, news):
                    self.counters = counters
                    self._gathered.add(news)
                    if (question := self._questions.pop(number, None)) is not None:
                        question.set_result(None)
        # It waits for this after its last message.
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
            # Finding the changes among thousands of endpoints takes about a millisecond.
            await asyncio.sleep(min(MAX_COOLDOWN, COOLDOWN_FACTOR * (loop.time() - began)))

    async def _watch(self) -> None:
        await asyncio.wait({self.ready})
        while True:
            try:
                async with asyncio.timeout(HUNG_AFTER):
                    await self.count()
            except TimeoutError:
                log.error("killing a relay worker that does not answer", pid=self.pid)
                self.kill()
                return
            await pause(COUNT_INTERVAL)


def _started(channel: int, *passed: int) -> "tuple[subprocess.Popen[bytes], asyncio.Future[int]]":
    """Start a worker with these descriptors; returns the process and its exit code, which a thread awaits.
    Not by the event loop: uvloop starts processes with no signal blocked, so a signal before the worker has
    its handlers would end it. Children of `subprocess` inherit our blocked signals.

    Raises:
        OSError: no descriptor, memory, process or thread is free.
    """
    loop = asyncio.get_running_loop()
    code: asyncio.Future[int] = loop.create_future()
    process = subprocess.Popen(
        [sys.executable, "-m", "epp_client.workers", str(channel)],
        stdin=subprocess.DEVNULL,
        pass_fds=(channel, *passed),
        # Ctrl-C in a terminal signals the control process only.
        start_new_session=True,
    )

    def tell(ended: int) -> None:
        if not code.cancelled():
            code.set_result(ended)

    def wait() -> None:
        ended = process.wait()
        # The event loop may have ended before the process.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, ended)

    try:
        threading.Thread(target=wait, name=f"worker {process.pid}", daemon=True).start()
    except RuntimeError as error:
        process.kill()
        process.wait()
        raise OSError(str(error)) from error
    return process, code
