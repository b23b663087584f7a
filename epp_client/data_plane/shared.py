"""Shared: the objects that all sessions of one process use: pools, pickers, deadlines, the account."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from epp_client.data_plane.account import Account
from epp_client.data_plane.deadlines import Deadlines
from epp_client.data_plane.gaps import EVERY, Gaps
from epp_client.metrics.counters import PoolCounters
from epp_client.picker.client import PickerClients
from epp_client.pool.store import PoolStore
from epp_client.relay.exchange import Exchange


class OpenSession(Protocol):
    """The events of a session that do not come from its streams or timers."""

    def pool_changed(self) -> None:
        """The pool has a new snapshot, and the session waits for one."""

    def hurry(self) -> None:
        """The drain ends soon."""


class Timings(NamedTuple):
    """When the steps of one exchange happened, in seconds of the monotonic clock; None for a step that
    did not happen."""

    began: float
    connecting: float | None
    """It began to wait for a connection to the picker."""
    asked: float | None
    """The newest stream to the picker was opened."""
    decided: float | None
    ended: float


class Spans(Protocol):
    """Makes traces of requests that have ended; see `traces`."""

    def ended(
        self,
        pool: str,
        exchange: Exchange,
        metadata: Mapping[str, str],
        address: str,
        timings: Timings,
    ) -> None:
        """An exchange is over. `metadata`: of Envoy's stream. `address`: of the picker that was asked last,
        empty if none was."""


class Shared:
    """The shared objects of one process."""

    def __init__(
        self,
        store: PoolStore,
        pickers: PickerClients,
        account: Account,
        loop: asyncio.AbstractEventLoop,
        wanted: Callable[[str], None],
        traces: Spans | None = None,
    ) -> None:
        """`wanted` is called with the name of a pool when a pick waits for an endpoint that Envoy may not
        have yet. `traces`: None without tracing."""
        self.traces = traces
        self.store = store
        self.pickers = pickers
        self.account = account
        self.loop = loop
        self.deadlines = Deadlines(loop)
        self.sessions: set[OpenSession] = set()
        self._waiting: set[OpenSession] = set()
        self._wanted = wanted
        # The first response is measured.
        self._turn = EVERY - 1

    def gaps(self, counters: PoolCounters) -> Gaps | None:
        """What measures the gaps of a new session's response; None for most."""
        self._turn += 1
        if self._turn < EVERY:
            return None
        self._turn = 0
        return Gaps(counters)

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
