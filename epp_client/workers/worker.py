"""A relay worker: a process with one DataPlane, which gets its pools from the control process.

Imports neither envoy-data-plane nor kubernetes_asyncio. Without its control process it serves until the
worker of another control process has taken over its socket, then finishes its open streams.
"""

import asyncio
import contextlib
import signal
import socket

import structlog

from epp_client import collector, signals
from epp_client.data_plane.plane import DataPlane
from epp_client.logs import configure, set_level
from epp_client.pool.delta import apply
from epp_client.pool.store import PoolStore
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

ALONE = 60.0
"""Seconds that a worker serves without its control process."""
POLL_INTERVAL = 0.05
"""Seconds between two checks whether another process has taken over the socket."""
LAST_WORDS = 2.0
"""Seconds for the control process to read the last messages and close the channel."""
ASK_INTERVAL = 0.02
"""Seconds between two messages about endpoints that picks wait for."""


class Worker:
    """The relay worker of this process."""

    def __init__(self, channel: Channel, order: Configure) -> None:
        self._channel = channel
        self._order = order
        self._store = PoolStore()
        self._plane = DataPlane(order.settings, self._store, order.inherited, self._want)
        self._wanted: set[str] = set()
        self._asking: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._cutting: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    async def run(self) -> int:
        """Serve until drained; returns the exit code of the process."""
        loop = asyncio.get_running_loop()
        timeout = self._order.settings.drain_timeout
        loop.add_signal_handler(signal.SIGTERM, self._told_to_end, timeout)
        # Only the control process acts on these.
        signals.ignore((signal.SIGINT, *signals.RENEWING, *signals.LOGGING))
        if not self._order.pools_follow and not await self._serve():
            return 1
        listening = asyncio.create_task(self._listen())
        await self._over.wait()
        listening.cancel()
        if self._asking is not None:
            self._asking.cancel()
        await asyncio.wait({listening})
        failed = not listening.cancelled() and listening.exception() is not None
        if failed:
            log.error("the worker failed", exc_info=listening.exception())
        await self._plane.close()
        await self._say(Counted(0, await self._plane.totals(), self._plane.news()))
        await self._channel.end(LAST_WORDS)
        return 1 if failed else 0

    async def _serve(self) -> bool:
        try:
            await self._plane.start()
        except (OSError, RuntimeError) as error:
            await self._say(Failed(str(error)))
            return False
        collector.settle()
        await self._say(Serving())
        # The signals were blocked before this process started: a worker that is ended during its start
        # would count as broken.
        signals.unblock()
        return True

    async def _say(self, message: object) -> None:
        """Send to the control process. If it has exited, `_listen` notices, and this worker still
        serves."""
        with contextlib.suppress(OSError):
            await self._channel.send(message)

    async def _listen(self) -> None:
        try:
            while (message := await self._channel.receive()) is not None:
                await self._take(message)
            await self._orphaned()
        except BaseException:
            self._over.set()
            raise

    async def _orphaned(self) -> None:
        """Serve until another process has taken over the socket, for up to ALONE seconds."""
        if self._draining is None:
            log.warning(
                "the control process has exited; serving until another one takes over the socket"
            )
            loop = asyncio.get_running_loop()
            until, place = loop.time() + ALONE, self._plane.place
            while place is not None and self._plane.place == place:
                await asyncio.sleep(POLL_INTERVAL)
                if loop.time() > until:
                    break
            # Accept connections that were made while the name still led here.
            await asyncio.sleep(POLL_INTERVAL)
        self._drain(self._order.settings.drain_timeout)

    async def _take(self, message: object) -> None:
        match message:
            case Pools(changed, gone):
                self._store.adopt(
                    [apply(self._store.snapshots.get(str(d.pool.name)), d) for d in changed], gone
                )
                if not self._plane.serving and self._draining is None and not await self._serve():
                    self._over.set()
            case Count(number):
                totals = await self._plane.totals()
                await self._say(Counted(number, totals, self._plane.news()))
            case LogLevel(level):
                set_level(level)
                log.debug(f"logging at {level}")
            case Forget(pool):
                self._plane.forget(pool)
            case Drain(timeout):
                self._drain(timeout)

    def _want(self, pool: str) -> None:
        """Note that a pick waits for an endpoint of `pool`. Messages are combined."""
        self._wanted.add(pool)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        while self._wanted:
            pools, self._wanted = tuple(self._wanted), set()
            await self._say(Wanted(pools))
            await asyncio.sleep(ASK_INTERVAL)

    def _told_to_end(self, timeout: float) -> None:
        self._drain(timeout)
        self._leaving = asyncio.create_task(self._say(Leaving()))

    def _drain(self, timeout: float) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._plane.drain(timeout))
            self._draining.add_done_callback(lambda _: self._over.set())
        elif timeout == 0:
            self._cutting = asyncio.create_task(self._plane.drain(0))


async def run(descriptor: int) -> int:
    """Serve on the channel of an inherited descriptor."""
    channel = await Channel.open(socket.socket(fileno=descriptor))
    order = await channel.receive()
    if order is None:
        return 0
    configure(order.settings.log_format, order.settings.log_level, worker=order.worker)
    return await Worker(channel, order).run()
