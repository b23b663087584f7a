"""Shared: the objects that all sessions of one process use: pools, pickers, deadlines, the account."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from epp_client.data_plane.account import Account
from epp_client.data_plane.deadlines import Deadlines
from epp_client.picker.client import PickerClients
from epp_client.pool.store import PoolStore


class OpenSession(Protocol):
    """The events of a session that do not come from its streams or timers."""

    def pool_changed(self) -> None:
        """The pool has a new snapshot, and the session waits for one."""

    def hurry(self) -> None:
        """The drain ends soon."""


class Shared:
    """The shared objects of one process."""

    def __init__(
        self,
        store: PoolStore,
        pickers: PickerClients,
        account: Account,
        loop: asyncio.AbstractEventLoop,
        wanted: Callable[[str], None],
    ) -> None:
        """`wanted` is called with the name of a pool when a pick waits for an endpoint that Envoy may not
        have yet."""
        self.store = store
        self.pickers = pickers
        self.account = account
        self.loop = loop
        self.deadlines = Deadlines(loop)
        self.sessions: set[OpenSession] = set()
        self._waiting: set[OpenSession] = set()
        self._wanted = wanted

    def wait_for_pool(self, session: OpenSession, pool: str) -> None:
        """Call `session.pool_changed` for every new snapshot, until `stop_waiting`."""
        self._waiting.add(session)
        self._wanted(pool)

    def stop_waiting(self, session: OpenSession) -> None:
        """The session does not wait any more."""
        self._waiting.discard(session)

    def pools_changed(self) -> None:
        """There are new snapshots."""
        for session in list(self._waiting):
            session.pool_changed()

    def hurry(self) -> None:
        """Stop waiting for pickers in responses: the end of the drain would cut those responses off."""
        for session in list(self.sessions):
            session.hurry()
