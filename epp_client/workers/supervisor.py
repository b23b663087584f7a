"""Workers: starts the relay workers, restarts crashed ones, replaces them, and sums their counters."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from epp_client.errors import SettingsError
from epp_client.metrics.counters import Counters
from epp_client.metrics.decisions import Gathered, News
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings, TransportName
from epp_client.wire.socket_names import SocketName
from epp_client.workers.claims import Claims, listening
from epp_client.workers.hold import Hold
from epp_client.workers.process import Want, WorkerProcess
from epp_client.workers.slot import Slot

log = structlog.get_logger(__name__)

SCRAPE_PATIENCE = 0.5
"""Seconds that a scrape waits for new counters; then it uses the last ones."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.05, 5.0
_SETTLED_AFTER = 10.0
"""Seconds that a worker has to live for the back-off to start over."""
UNSERVED = 20.0
"""Seconds that a socket queues connections without a worker; then it is closed until one serves. A worker
took 11 s to start on two cores with a load of 20."""

REPLACEMENT_TIMEOUT = 120.0
"""Seconds for a new worker to listen while the old one still serves."""


class Workers:
    """The relay workers of a sidecar, with the interface of a DataPlane."""

    def __init__(
        self,
        settings: ServeSettings,
        store: PoolStore,
        changed: Callable[["Workers"], None],
        want: Want = lambda _: None,
        claims: Claims | None = None,
    ) -> None:
        self._want = want
        self._claims = claims or Claims()
        self._store = store
        self._settings = settings
        self._changed = changed
        self._hold = Hold(settings.hold) if settings.hold is not None else None
        self._slots = [
            Slot(index, settings.model_copy(update={"socket": path}), self._hold)
            for index, path in enumerate(settings.sockets)
        ]
        self._departed = Counters()
        self._gathered = Gathered()
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._unsubscribe = store.subscribe(self._pools_changed)

    @property
    def serving(self) -> int:
        """Number of workers that listen."""
        return sum(
            slot.worker is not None and slot.worker.ready.done() and not slot.worker.exited.done()
            for slot in self._slots
        )

    @property
    def unheld(self) -> str:
        """Why the sockets would not outlive this process, if there should be a holder; else empty."""
        return self._hold.trouble if self._hold is not None else ""

    @property
    def pids(self) -> list[int]:
        """Process ids of the current workers, by socket."""
        return [slot.worker.pid for slot in self._slots if slot.worker is not None]

    @property
    def all_pids(self) -> list[int]:
        """Process ids of all workers, including those that finish their streams."""
        return [worker.pid for slot in self._slots for worker in slot.processes]

    @property
    def leaving(self) -> int:
        """Number of replaced workers that finish their streams."""
        return sum(len(slot.leaving) for slot in self._slots)

    async def start(self) -> None:
        """Start every worker, on the claimed sockets if there are any; returns once all serve.

        Raises:
            SettingsError: a worker cannot bind its socket. `drain` and `close` end the others.
        """
        if self._hold is not None:
            await self._hold.open()
        for slot in self._slots:
            if (claimed := self._claims.take(slot.settings.socket)) is not None:
                slot.claim(claimed)
        for slot in self._slots:
            self._install(slot, await self._spawn(slot))
        await asyncio.gather(*(slot.worker.ready for slot in self._slots if slot.worker))
        if self._hold is not None:
            self._hold.settle()
        self._changed(self)

    async def _spawn(self, slot: Slot) -> WorkerProcess:
        settings, store = slot.settings, self._store
        want, gathered = self._want, self._gathered
        # grpcio cannot use the descriptor of a Unix socket.
        if settings.transport is TransportName.GRPCIO:
            return await WorkerProcess.start(slot.index, settings, store, want, gathered, None)
        bound = slot.bind()
        try:
            return await WorkerProcess.start(slot.index, settings, store, want, gathered, bound)
        except BaseException:
            if bound is not slot.bound:
                bound.close()
            raise

    def _install(self, slot: Slot, worker: WorkerProcess) -> None:
        if (old := slot.worker) is not None:
            slot.leaving.add(old)
            self._own(old.drain(self._settings.drain_timeout))
        slot.worker, slot.began = worker, self._loop.time()
        # It may have changed since the worker was started.
        self._own(worker.log_at(slot.settings.log_level))
        if worker.bound is not None:
            slot.adopt(worker.bound)
        worker.ready.add_done_callback(lambda ready: slot.listens(worker, ready))
        worker.leaving.add_done_callback(lambda told: self._left(slot, worker, told))
        worker.exited.add_done_callback(lambda _: self._exited(slot, worker))

    async def _discard(self, slot: Slot, worker: WorkerProcess) -> None:
        """Kill a worker that is not needed or cannot serve."""
        worker.kill()
        await asyncio.wait({worker.exited})
        if worker.bound is not None and worker.bound is not slot.bound:
            worker.bound.close()

    def _left(self, slot: Slot, worker: WorkerProcess, told: "asyncio.Future[None]") -> None:
        """Another process sent the worker SIGTERM: it accepts no more connections, so replace it."""
        if told.cancelled() or slot.worker is not worker or self._draining:
            return
        log.warning(
            "restarting a relay worker that received SIGTERM from another process", pid=worker.pid
        )
        slot.worker = None
        slot.leaving.add(worker)
        self._own(worker.drain(self._settings.drain_timeout))
        self._vacant(slot)

    def _exited(self, slot: Slot, worker: WorkerProcess) -> None:
        """Add the counters of an exited worker, and restart it if it was the current one."""
        self._departed.add(worker.counters.settled())
        slot.leaving.discard(worker)
        if slot.worker is not worker:
            return
        slot.worker = None
        if self._draining:
            self._changed(self)
            return
        self._departed.restarts += 1
        log.error(
            "restarting a relay worker that crashed",
            worker=slot.index,
            pid=worker.pid,
            exit_code=None if worker.exited.cancelled() else worker.exited.result(),
        )
        if self._loop.time() - slot.began > _SETTLED_AFTER:
            slot.backoff = 0.0
        self._vacant(slot)

    def _vacant(self, slot: Slot) -> None:
        """Start another worker. New connections queue for up to UNSERVED seconds."""
        self._changed(self)
        if slot.giving_up is None and slot.bound is not None and slot.bound.named:
            slot.giving_up = self._loop.call_later(UNSERVED, self._give_up, slot)
        self._own(self._refill(slot))

    def _give_up(self, slot: Slot) -> None:
        """Close the socket, so that Envoy uses the other workers until a worker serves here again."""
        slot.giving_up = None
        log.error("no relay worker has started; closing its socket", worker=slot.index)
        slot.adopt(None)
        # The worker that is still starting has the socket too.
        if slot.worker is not None:
            slot.worker.kill()

    async def _refill(self, slot: Slot) -> None:
        while slot.worker is None:
            await asyncio.sleep(slot.backoff)
            slot.backoff = min(max(2 * slot.backoff, _FIRST_BACKOFF), _LONGEST_BACKOFF)
            if self._draining:
                return
            try:
                worker = await self._spawn(slot)
            except OSError as error:
                # Descriptors, memory or processes are exhausted; try again.
                log.error("cannot start a relay worker", worker=slot.index, error=str(error))
                continue
            # `replace` has started a worker meanwhile.
            if slot.worker is not None or self._draining:
                await self._discard(slot, worker)
                return
            self._install(slot, worker)
            # If it cannot serve it exits, and `_exited` starts another one.
            with contextlib.suppress(SettingsError):
                await worker.ready
                slot.served()
            self._changed(self)
            return

    async def replace(self) -> None:
        """Replace every worker, one after the other. The old ones finish their streams.
        The new worker listens before the old one stops to. May be cancelled.
        """
        for slot in self._slots:
            async with slot.renewing:
                await self._renew(slot)

    async def _renew(self, slot: Slot) -> None:
        if slot.worker is None or self._draining:
            return
        if (new := await self._fresh(slot)) is not None:
            slot.served()
            self._install(slot, new)

    async def _fresh(self, slot: Slot) -> WorkerProcess | None:
        """A new worker that listens; None if it cannot be started."""
        try:
            new = await self._spawn(slot)
        except OSError as error:
            log.error("cannot replace a relay worker", error=str(error))
            return None
        try:
            await asyncio.wait({new.ready}, timeout=REPLACEMENT_TIMEOUT)
            if not new.ready.done():
                raise SettingsError("the new one did not start in time")
            new.ready.result()
            if not self._draining:
                return new
        except SettingsError as error:
            log.error("cannot replace a relay worker", error=str(error))
        except BaseException:
            await self._discard(slot, new)
            raise
        await self._discard(slot, new)
        return None

    # --- names of the sockets ---

    @property
    def names(self) -> list[SocketName]:
        """The names of the sockets."""
        return [
            SocketName(slot.settings.socket, partial(self._inode, slot), partial(self._name, slot))
            for slot in self._slots
        ]

    def _inode(self, slot: Slot) -> int | None:
        return None if self._draining or slot.renewing.locked() else slot.inode

    async def _name(self, slot: Slot) -> None:
        """Bind the name again and replace the worker. Connections to the new socket queue for the new
        worker.

        Raises:
            OSError: the socket cannot be bound.
        """
        async with slot.renewing:
            slot.claim(listening(slot.settings.socket))
            old = slot.worker
            while slot.worker is old and old is not None and not self._draining:
                await self._renew(slot)
                if slot.worker is old:
                    await asyncio.sleep(_LONGEST_BACKOFF)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- counters ---

    async def totals(self) -> Counters:
        """The counters of all workers, exited ones included."""
        workers = [worker for slot in self._slots for worker in slot.processes]
        if workers:
            counts = [asyncio.create_task(worker.count()) for worker in workers]
            _, late = await asyncio.wait(counts, timeout=SCRAPE_PATIENCE)
            for task in late:
                task.cancel()
            await asyncio.gather(*counts, return_exceptions=True)
        return self.latest()

    def latest(self) -> Counters:
        """The counters of all workers as far as they have reported them. They report once a second."""
        totals = Counters()
        totals.add(self._departed)
        totals.restarts = self._departed.restarts
        for slot in self._slots:
            for worker in slot.processes:
                totals.add(worker.counters)
        return totals

    def news(self) -> News:
        """What the workers have recorded since the last call, as far as they have reported it. They report
        once a second."""
        return self._gathered.take()

    def forget(self, pool: str) -> None:
        """Drop the counters of a deleted pool."""
        self._departed.pools.pop(pool, None)
        for slot in self._slots:
            for worker in slot.processes:
                worker.counters.pools.pop(pool, None)
                self._own(worker.forget(pool))

    def log_at(self, level: str) -> None:
        """Change the log level of all workers, later ones included."""
        for slot in self._slots:
            slot.settings = slot.settings.model_copy(update={"log_level": level})
            for worker in slot.processes:
                self._own(worker.log_at(level))

    # --- pools ---

    async def followed(self) -> None:
        """Wait until every worker has applied the current state of the store."""
        workers = [worker for slot in self._slots for worker in slot.processes]
        await asyncio.gather(*(worker.followed() for worker in workers))

    def _pools_changed(self, changed: set[PoolName]) -> None:
        names = set(map(str, changed))
        for slot in self._slots:
            for worker in slot.processes:
                worker.pools_changed(names)

    # --- the end ---

    async def drain(self, timeout: float) -> None:
        """Accept no new streams, and give the open ones `timeout` seconds to finish. 0 ends a running drain
        at once."""
        self._draining = True
        log.info("draining", workers=self.serving)
        for slot in self._slots:
            slot.served()
            slot.leave()
        if self._hold is not None:
            await self._hold.close()
        workers = [worker for slot in self._slots for worker in slot.processes]
        await asyncio.gather(*(worker.drain(timeout) for worker in workers))

    async def close(self) -> None:
        """End everything, after `drain`."""
        self._claims.close()
        self._unsubscribe()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in self._slots:
            slot.served()
            slot.adopt(None)
            for worker in slot.processes:
                worker.kill()
                await asyncio.wait({worker.exited})
