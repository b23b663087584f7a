"""ExtProcService: the service that Envoy's ext_proc filter calls. It admits streams and owns the sessions.

It is the shell of the relay: it connects pools, picker clients, metrics and the transport. Only the
Exchange decides about a request.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from epp_client.data_plane.account import Account
from epp_client.data_plane.handover import KNOWN_ENDPOINTS, Handover
from epp_client.data_plane.recorder import Recorder
from epp_client.data_plane.refusing import Refusing
from epp_client.data_plane.session import Session
from epp_client.data_plane.shared import Shared, Spans
from epp_client.errors import Reason
from epp_client.ext_proc.messages import POOL_KEY
from epp_client.metrics.counters import UNKNOWN_POOL, Counters
from epp_client.picker.client import PROCESS, PickerClients
from epp_client.pool.store import PoolStore
from epp_client.relay.exchange import Exchange
from epp_client.relay.retention import RetentionBudget
from epp_client.wire.status import UNIMPLEMENTED, Status
from epp_client.wire.transport import NO_OWNER, Stream, StreamEvents


class ExtProcService:
    """The ext_proc service of one process. The transport's server calls `accept` for each stream."""

    def __init__(
        self,
        store: PoolStore,
        pickers: PickerClients,
        counters: Counters,
        *,
        max_exchanges: int,
        max_retained_total: int,
        destinations: int | None = None,
        samples: int = 0,
        traces: Spans | None = None,
        wanted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`wanted`: see Shared. `samples`: see Recorder. `traces`: None without tracing."""
        self.store = store
        self.pickers = pickers
        self.budget = RetentionBudget(max_retained_total)
        loop = asyncio.get_running_loop()
        self.account = Account(loop, counters, Recorder(samples))
        self._shared = Shared(store, pickers, self.account, loop, wanted, traces)
        self._handover = Handover(store)
        self._max_exchanges = max_exchanges
        self._destinations = destinations
        self._unsubscribe = store.subscribe(self._pools_changed)

    @property
    def open_sessions(self) -> int:
        """Number of open streams from Envoy that have an exchange."""
        return len(self._shared.sessions)

    def accept(self, stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        """Take a new stream from the transport's server."""
        if path != PROCESS:
            if path == KNOWN_ENDPOINTS:
                return self._handover.accept(stream)
            stream.finish(Status(UNIMPLEMENTED, f"{path} is not served here; {PROCESS} is"))
            return NO_OWNER
        name = metadata.get(POOL_KEY, "")
        snapshot = self.store.snapshots.get(name)
        reason: Reason | None = None
        if len(self._shared.sessions) >= self._max_exchanges:
            reason = Reason.OVERLOADED
        elif not name:
            reason = Reason.POOL_NOT_NAMED
        elif snapshot is None:
            reason = Reason.POOL_UNKNOWN if self.store.synced else Reason.POOL_NOT_SYNCED
        elif not snapshot.synced:
            reason = Reason.POOL_NOT_SYNCED
        if reason is not None or snapshot is None:
            assert reason is not None
            return self._refuse(stream, name if snapshot is not None else UNKNOWN_POOL, reason)
        client = self.pickers[name]
        exchange = Exchange(
            snapshot,
            local_pick=self.account.local_pick,
            budget=self.budget,
            trailers_expected=client.trailers_expected,
            destinations=self._destinations,
        )
        counters = self.account.counters.pool(name)
        session = Session(self._shared, stream, name, exchange, counters, metadata)
        self._shared.sessions.add(session)
        counters.in_flight += 1
        return session

    def _refuse(self, stream: Stream, pool: str, reason: Reason) -> StreamEvents:
        ended = partial(self.account.refused, pool, reason)
        return Refusing(stream, reason, pool if pool != UNKNOWN_POOL else "", ended)

    def _pools_changed(self, changed: object) -> None:
        del changed
        self.pickers.follow(
            {
                name: (snapshot.picker, snapshot.pool)
                for name, snapshot in self.store.snapshots.items()
            }
        )
        self._shared.pools_changed()

    def hurry(self) -> None:
        """See Shared."""
        self._shared.hurry()

    def close(self) -> None:
        """Stop following the pools."""
        self._unsubscribe()
