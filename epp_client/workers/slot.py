"""Slot: one worker's place, with the socket that successive workers share."""

import asyncio
import contextlib

from epp_client.settings import ServeSettings
from epp_client.wire.socket_file import BoundSocket
from epp_client.workers.hold import Hold
from epp_client.workers.process import WorkerProcess


class Slot:
    """The current worker of one socket, and the earlier ones that finish their streams."""

    def __init__(self, index: int, settings: ServeSettings, hold: Hold | None) -> None:
        self._hold = hold
        self.index = index
        self.settings = settings
        self.worker: WorkerProcess | None = None
        self.leaving: set[WorkerProcess] = set()
        self.bound: BoundSocket | None = None
        """The socket that its workers share. None: they bind it themselves, or connections are refused."""
        self.renewing = asyncio.Lock()
        """Held while a serving worker is replaced."""
        self._own_inode: int | None = None
        """Inode of the name that a worker has bound itself."""
        self.giving_up: asyncio.TimerHandle | None = None
        self.backoff = 0.0
        self.began = 0.0

    def bind(self) -> BoundSocket:
        """The socket for the next worker. This is `bound`, or an earlier sidecar's from the holder, if the
        name still leads to it. Otherwise it is a new one.

        Raises:
            OSError: it cannot be bound.
        """
        if self.bound is not None and self.bound.named:
            return self.bound
        self.adopt(None)
        path = self.settings.socket
        if self._hold is not None and (left := self._hold.take(path)) is not None:
            if left.named:
                return left
            left.close()
        return BoundSocket(str(path))

    def adopt(self, bound: BoundSocket | None) -> None:
        """Use `bound` from now on, and close the previous socket."""
        if self.bound is not None and self.bound is not bound:
            if self._hold is not None:
                self._hold.drop(self.settings.socket)
            self.bound.close()
        self.bound = bound

    def claim(self, bound: BoundSocket) -> None:
        """Use `bound`, which listens for a later worker, and have the holder keep it."""
        self.adopt(bound)
        if self._hold is not None:
            self._hold.keep(self.settings.socket, bound)

    def listens(self, worker: WorkerProcess, ready: "asyncio.Future[None]") -> None:
        """A worker has become `ready` or failed: if it listens, have the holder keep the socket."""
        if ready.cancelled() or ready.exception() is not None:
            return
        if worker.bound is None:
            # It has bound the name itself: close our socket, so that queued connections are retried.
            self.adopt(None)
            with contextlib.suppress(OSError):
                self._own_inode = self.settings.socket.stat().st_ino
        if worker.bound is not self.bound:
            return
        if self._hold is not None and self.bound is not None:
            self._hold.keep(self.settings.socket, self.bound)

    def leave(self) -> None:
        """Close the socket as this process ends. A holder, if there is one, queues new connections."""
        held = self._hold is not None and self._hold.holds
        if held and self.bound is not None and self.bound.named:
            self.bound.leave()
            self.bound = None
        self.adopt(None)

    def served(self) -> None:
        """A worker serves: cancel the timer that would close the socket."""
        if self.giving_up is not None:
            self.giving_up.cancel()
            self.giving_up = None

    @property
    def inode(self) -> int | None:
        """The inode of the socket's name while a worker listens; None while none does."""
        worker = self.worker
        if worker is None or not worker.ready.done() or worker.exited.done():
            return None
        return self.bound.inode if self.bound is not None else self._own_inode

    @property
    def processes(self) -> list[WorkerProcess]:
        """The worker, and earlier ones that finish their streams."""
        return [*self.leaving, *([self.worker] if self.worker else [])]
