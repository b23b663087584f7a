"""Shared: what the sessions of one process have in common: pools, pickers, deadlines, the account."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from epp_client.data_plane.account import Account
from epp_client.data_plane.deadlines import Deadlines
from epp_client.picker.client import PickerClients
from epp_client.pool.store import PoolStore


class OpenSession(Protocol):
    """What others tell a session."""

    def pool_changed(self) -> None:
        """The pool has a new snapshot, and the session waits for one."""

    def hurry(self) -> None:
        """The drain ends soon."""


class Shared:
    """Of one process."""

    def __init__(
        self,
        store: PoolStore,
        pickers: PickerClients,
        account: Account,
        loop: asyncio.AbstractEventLoop,
        wanted: Callable[[str], None],
    ) -> None:
        """`wanted` is told of a pool of which a pick waits for an endpoint that Envoy may not have."""
        self.store = store
        self.pickers = pickers
        self.account = account
        self.loop = loop
        self.deadlines = Deadlines(loop)
        self.sessions: set[OpenSession] = set()
        self._waiting: set[OpenSession] = set()
        self._wanted = wanted

    def wait_for_pool(self, session: OpenSession, pool: str) -> None:
        """Tell `session` of every new snapshot of `pool` until `stop_waiting`."""
        self._waiting.add(session)
        self._wanted(pool)

    def stop_waiting(self, session: OpenSession) -> None:
        """The session waits no longer."""
        self._waiting.discard(session)

    def pools_changed(self) -> None:
        """There are new snapshots."""
        for session in list(self._waiting):
            session.pool_changed()

    def hurry(self) -> None:
        """Wait no longer for what pickers owe to responses: those would be cut off with the drain's end."""
        for session in list(self.sessions):
            session.hurry()
