"""Slot: the place of one worker, whoever holds it, and the socket that its workers share."""

import asyncio
import contextlib

from epp_client.settings import ServeSettings
from epp_client.wire.socket_file import BoundSocket
from epp_client.workers.hold import Hold
from epp_client.workers.process import WorkerProcess


class Slot:
    """The place of one worker, whoever holds it."""

    def __init__(self, index: int, settings: ServeSettings, hold: Hold | None) -> None:
        self._hold = hold
        self.index = index
        self.settings = settings
        self.worker: WorkerProcess | None = None
        self.leaving: set[WorkerProcess] = set()
        self.bound: BoundSocket | None = None
        """What its workers listen on, one after the other. None: they bind it themselves, or it refuses."""
        self.renewing = asyncio.Lock()
        """Of who puts a fresh worker in the place of one that serves."""
        self._own_inode: int | None = None
        """Of the name that a worker has bound itself."""
        self.giving_up: asyncio.TimerHandle | None = None
        self.backoff = 0.0
        self.began = 0.0

    def bind(self) -> BoundSocket:
        """The socket for its next worker: a new one, unless `bound`, or what the sidecar before left with a
        holder, is still what its name leads to.

        Raises:
            OSError: it cannot be bound.
        """
        if self.bound is not None and self.bound.named:
            return self.bound
        # first: the new one is bound to the same passing name
        self.adopt(None)
        path = self.settings.socket
        if self._hold is not None and (left := self._hold.take(path)) is not None:
            if left.named:
                return left
            left.close()
        return BoundSocket(str(path))

    def adopt(self, bound: BoundSocket | None) -> None:
        """`bound` is the socket from now on; there is none when it is None."""
        if self.bound is not None and self.bound is not bound:
            if self._hold is not None:
                self._hold.drop(self.settings.socket)
            self.bound.close()
        self.bound = bound

    def claim(self, bound: BoundSocket) -> None:
        """`bound` is listened on already, for a worker to come: what connects may outlive us."""
        self.adopt(bound)
        if self._hold is not None:
            self._hold.keep(self.settings.socket, bound)

    def listens(self, worker: WorkerProcess, ready: "asyncio.Future[None]") -> None:
        """A worker of this place listens, if it is `ready`: what connects from now on may outlive us."""
        if ready.cancelled() or ready.exception() is not None:
            return
        if worker.bound is None:
            # it has bound the name itself: who waits here is to ask again
            self.adopt(None)
            with contextlib.suppress(OSError):
                self._own_inode = self.settings.socket.stat().st_ino
        if worker.bound is not self.bound:
            return
        if self._hold is not None and self.bound is not None:
            self._hold.keep(self.settings.socket, self.bound)

    def leave(self) -> None:
        """We go. Who connects now waits for the next sidecar if there is a holder, else is refused."""
        held = self._hold is not None and self._hold.holds
        if held and self.bound is not None and self.bound.named:
            self.bound.leave()
            self.bound = None
        self.adopt(None)

    def served(self) -> None:
        """There is a worker: nothing waits in vain."""
        if self.giving_up is not None:
            self.giving_up.cancel()
            self.giving_up = None

    @property
    def inode(self) -> int | None:
        """What the socket's name leads to while a worker listens; None while none does."""
        worker = self.worker
        if worker is None or not worker.ready.done() or worker.exited.done():
            return None
        return self.bound.inode if self.bound is not None else self._own_inode

    @property
    def processes(self) -> list[WorkerProcess]:
        """Those who relay here, or finish what they relayed."""
        return [*self.leaving, *([self.worker] if self.worker else [])]
