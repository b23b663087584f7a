"""Workers: fills the places of the relay workers, replaces the dead, adds up what they count."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from epp_client.errors import SettingsError
from epp_client.metrics.counters import Counters
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
"""Seconds that a scrape waits for fresh numbers; then it takes the last ones."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.05, 5.0
_SETTLED_AFTER = 10.0
"""Seconds of life after which a death is the first one again."""
UNSERVED = 20.0
"""Seconds that a socket keeps what connects for a worker to come; then it refuses until one is there.
Many times what a worker takes to start, which at a load of 20 on two cores has been 11 s."""

FRESH = 120.0
"""Seconds for a fresh worker to listen when the one in its place still serves: nobody waits for it."""


class Workers:
    """The relay workers of a sidecar. Takes the place of a DataPlane of its own."""

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
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._unsubscribe = store.subscribe(self._pools_changed)

    @property
    def serving(self) -> int:
        """Workers that listen."""
        return sum(
            slot.worker is not None and slot.worker.ready.done() and not slot.worker.exited.done()
            for slot in self._slots
        )

    @property
    def unheld(self) -> str:
        """Why the sockets would not outlive this process, though they should; empty when they would."""
        return self._hold.trouble if self._hold is not None else ""

    @property
    def pids(self) -> list[int]:
        """The workers' processes, by socket."""
        return [slot.worker.pid for slot in self._slots if slot.worker is not None]

    @property
    def all_pids(self) -> list[int]:
        """Theirs, and of those who finish what they relayed."""
        return [worker.pid for slot in self._slots for worker in slot.processes]

    @property
    def leaving(self) -> int:
        """Workers that finish what they relayed."""
        return sum(len(slot.leaving) for slot in self._slots)

    async def start(self) -> None:
        """Start every worker, on the claimed sockets if there are some; returns when all serve.

        Raises:
            SettingsError: a worker cannot bind its socket; `drain` and `close` end the others.
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
        settings, want = slot.settings, self._want
        # takes no descriptor of a Unix socket
        if settings.transport is TransportName.GRPCIO:
            return await WorkerProcess.start(slot.index, settings, self._store, want, None)
        bound = slot.bind()
        try:
            return await WorkerProcess.start(slot.index, settings, self._store, want, bound)
        except BaseException:
            if bound is not slot.bound:
                bound.close()
            raise

    def _install(self, slot: Slot, worker: WorkerProcess) -> None:
        if (old := slot.worker) is not None:
            slot.leaving.add(old)
            self._own(old.drain(self._settings.drain_timeout))
        slot.worker, slot.began = worker, self._loop.time()
        if worker.bound is not None:
            slot.adopt(worker.bound)
        worker.ready.add_done_callback(lambda ready: slot.listens(worker, ready))
        worker.leaving.add_done_callback(lambda told: self._left(slot, worker, told))
        worker.exited.add_done_callback(lambda _: self._exited(slot, worker))

    async def _discard(self, slot: Slot, worker: WorkerProcess) -> None:
        """End a worker that is not needed, or cannot serve."""
        worker.kill()
        await asyncio.wait({worker.exited})
        if worker.bound is not None and worker.bound is not slot.bound:
            worker.bound.close()

    def _left(self, slot: Slot, worker: WorkerProcess, told: "asyncio.Future[None]") -> None:
        """Somebody else told it to end; it accepts nothing any more, so another one must."""
        if told.cancelled() or slot.worker is not worker or self._draining:
            return
        log.warning("a relay worker was told to end and is replaced", pid=worker.pid)
        slot.worker = None
        slot.leaving.add(worker)
        self._own(worker.drain(self._settings.drain_timeout))
        self._vacant(slot)

    def _exited(self, slot: Slot, worker: WorkerProcess) -> None:
        """Keep what it has counted, nothing is in flight there any more; fill its place."""
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
            "a relay worker died and is replaced",
            worker=slot.index,
            pid=worker.pid,
            exit_code=None if worker.exited.cancelled() else worker.exited.result(),
        )
        if self._loop.time() - slot.began > _SETTLED_AFTER:
            slot.backoff = 0.0
        self._vacant(slot)

    def _vacant(self, slot: Slot) -> None:
        """Fill the place. Until then what connects waits, but not for ever."""
        self._changed(self)
        if slot.giving_up is None and slot.bound is not None and slot.bound.named:
            slot.giving_up = self._loop.call_later(UNSERVED, self._give_up, slot)
        self._own(self._refill(slot))

    def _give_up(self, slot: Slot) -> None:
        """Refuse, so that Envoy asks the other workers, until there is a worker again."""
        slot.giving_up = None
        log.error("no relay worker has taken the place; its socket refuses", worker=slot.index)
        slot.adopt(None)
        # it still starts, and has the socket too
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
                # no descriptors, no memory, too many processes: this passes
                log.error("a relay worker cannot be started", worker=slot.index, error=str(error))
                continue
            # `replace` has filled the place
            if slot.worker is not None or self._draining:
                await self._discard(slot, worker)
                return
            self._install(slot, worker)
            # it exits then, which is seen
            with contextlib.suppress(SettingsError):
                await worker.ready
                slot.served()
            self._changed(self)
            return

    async def replace(self) -> None:
        """Put a fresh worker in every place, one after the other; the old ones finish their streams.

        The new worker listens, on the same socket or on one that has its name, before the old one leaves.
        May be cancelled.
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
        """One more worker for the place, that listens; None when there is none to be had."""
        try:
            new = await self._spawn(slot)
        except OSError as error:
            log.error("a relay worker could not be replaced", error=str(error))
            return None
        try:
            await asyncio.wait({new.ready}, timeout=FRESH)
            if not new.ready.done():
                raise SettingsError("the new one hangs as it starts")
            new.ready.result()
            if not self._draining:
                return new
        except SettingsError as error:
            log.error("a relay worker could not be replaced", error=str(error))
        except BaseException:
            await self._discard(slot, new)
            raise
        await self._discard(slot, new)
        return None

    # --- the sockets' names ---

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
        """Bind the name again. What connects to the new socket waits for a fresh worker; the worker from
        before finishes its streams, as with `replace`.

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
        """The numbers of all workers, those that are gone included."""
        workers = [worker for slot in self._slots for worker in slot.processes]
        if workers:
            counts = [asyncio.create_task(worker.count()) for worker in workers]
            _, late = await asyncio.wait(counts, timeout=SCRAPE_PATIENCE)
            for task in late:
                task.cancel()
            await asyncio.gather(*counts, return_exceptions=True)
        totals = Counters()
        totals.add(self._departed)
        totals.restarts = self._departed.restarts
        for worker in workers:
            totals.add(worker.counters)
        return totals

    def forget(self, pool: str) -> None:
        """Drop the numbers of a pool that is no more."""
        self._departed.pools.pop(pool, None)
        for slot in self._slots:
            for worker in slot.processes:
                worker.counters.pools.pop(pool, None)
                self._own(worker.forget(pool))

    # --- pools ---

    async def followed(self) -> None:
        """Until every worker has taken in what the store has now."""
        workers = [worker for slot in self._slots for worker in slot.processes]
        await asyncio.gather(*(worker.followed() for worker in workers))

    def _pools_changed(self, changed: set[PoolName]) -> None:
        names = set(map(str, changed))
        for slot in self._slots:
            for worker in slot.processes:
                worker.pools_changed(names)

    # --- the end ---

    async def drain(self, timeout: float) -> None:
        """No new streams; the open ones have `timeout` seconds. 0 cuts a running drain."""
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
        """Leave nothing running, after `drain`."""
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
