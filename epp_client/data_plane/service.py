"""ExtProcService: what Envoy's ext_proc filter talks to. Admits streams, owns the sessions, drains.

The relay's shell: it joins pools, picker clients, metrics and the transport, and decides nothing
about a request; that is the Exchange's.
"""

import asyncio
import random
from collections.abc import Callable, Mapping

import structlog

from epp_client.data_plane.deadlines import Deadlines
from epp_client.data_plane.handover import KNOWN_ENDPOINTS, Handover
from epp_client.data_plane.refusing import Refusing
from epp_client.data_plane.session import Session
from epp_client.errors import PeerUnreachable, Reason
from epp_client.ext_proc.messages import POOL_KEY
from epp_client.logs import Repeats
from epp_client.metrics.counters import UNKNOWN_POOL, Counters
from epp_client.picker.client import PROCESS, PickerClients
from epp_client.picker.fallback import InFlight, local_pick
from epp_client.picker.preparation import Subset
from epp_client.picker.unreachable import Unreachable
from epp_client.pool.settings import ANNOTATION_PREFIX
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.relay.exchange import Exchange
from epp_client.relay.outcome import Outcome
from epp_client.relay.retention import RetentionBudget
from epp_client.wire.status import OK, UNIMPLEMENTED, Status
from epp_client.wire.transport import NO_OWNER, Stream, StreamEvents

log = structlog.get_logger(__name__)


class ExtProcService:
    """The ext_proc service of one process. `accept` is what the transport's server is given."""

    def __init__(
        self,
        store: PoolStore,
        pickers: PickerClients,
        counters: Counters,
        *,
        max_exchanges: int,
        max_retained_total: int,
        destinations: int | None = None,
        wanted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`wanted` is told of a pool of which a pick waits for an endpoint that Envoy may not have."""
        self.store = store
        self._handover = Handover(store)
        self.pickers = pickers
        self.loop = asyncio.get_running_loop()
        self.deadlines = Deadlines(self.loop)
        self.in_flight = InFlight()
        self.budget = RetentionBudget(max_retained_total)
        self._counters = counters
        self._max_exchanges = max_exchanges
        self._destinations = destinations
        self._wanted = wanted
        self._sessions: set[Session] = set()
        self._waiting: set[Session] = set()
        self._repeats = Repeats()
        self._unreachable = Unreachable()
        self._unsubscribe = store.subscribe(self._pools_changed)

    @property
    def open_sessions(self) -> int:
        """Streams of Envoy's that are open now."""
        return len(self._sessions)

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
        if len(self._sessions) >= self._max_exchanges:
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
            local_pick=self._local_pick,
            budget=self.budget,
            trailers_expected=client.trailers_expected,
            destinations=self._destinations,
        )
        counters = self._counters.pool(name)
        session = Session(self, stream, name, exchange, counters)
        self._sessions.add(session)
        counters.in_flight += 1
        return session

    def _refuse(self, stream: Stream, pool: str, reason: Reason) -> StreamEvents:
        def ended(outcome: Outcome) -> None:
            counters = self._counters.pool(pool)
            counters.outcome(outcome)
            if outcome is Outcome.REFUSED:
                counters.refuse(reason)
                self._warn("refused a request", pool=pool, reason=str(reason))

        return Refusing(stream, reason, pool if pool != UNKNOWN_POOL else "", ended)

    def session_ended(
        self, session: Session, exchange: Exchange, pick_seconds: float | None
    ) -> None:
        """Account for an exchange that is over."""
        self._sessions.discard(session)
        pool = session.pool
        counters = session.counters  # even if those of the pool's name are others by now, or none
        counters.in_flight -= 1
        counters.outcome(exchange.outcome or Outcome.CANCELLED)
        if pick_seconds is not None and exchange.outcome is Outcome.STEERED:
            counters.picked(pick_seconds)
        if exchange.reason is not None:
            if exchange.outcome is Outcome.FAILED_OPEN:
                counters.fail_open(exchange.reason)
                why = _why(pool, exchange.reason, exchange.hint, exchange.misread)
                self._warn("failed open", **why)
            else:
                counters.refuse(exchange.reason)
                why = _why(pool, exchange.reason, exchange.hint, exchange.misread)
                self._warn("refused a request", **why)
        if exchange.retries:
            counters.retries += exchange.retries
        if exchange.request_lost:
            counters.not_retained += 1
        if exchange.passthrough is not None:
            counters.pass_through(exchange.passthrough)
            if exchange.hint and exchange.reason is None:
                why = _why(pool, exchange.passthrough, exchange.hint)
                self._warn("a response passed its picker by", **why)
        if exchange.endpoint_failure is not None:
            counters.endpoint_fail(exchange.endpoint_failure)
            self._warn(
                "Envoy answered for an endpoint", pool=pool, reason=str(exchange.endpoint_failure)
            )
        if exchange.eviction is not None:
            counters.evict(exchange.eviction)
        for what, (count, name) in exchange.left_out.items():
            counters.leave_out(what, count)
            self._warn("left out of a picker's answer", pool=pool, reason=str(what), name=name)
        if exchange.trailers_answered is not None:
            self.pickers.learn_trailers(pool, exchange.trailers_answered)

    def _local_pick(self, snapshot: PoolSnapshot, subset: Subset | None) -> tuple[str, ...]:
        unreachable = self._unreachable.now(self.loop.time())
        return local_pick(snapshot, subset, self.in_flight, unreachable, random.randrange)

    def served(self, session: Session, exchange: Exchange) -> None:
        """Envoy has said who serves the request: those of the list before it took no connection."""
        if passed_over := exchange.passed_over:
            self._unreachable.refused(passed_over, self.loop.time())
            session.counters.passed_over += len(passed_over)
            self._warn("endpoints took no connection", pool=session.pool, endpoint=passed_over[0])
        if exchange.endpoint is not None and exchange.endpoint_failure is None:
            self._unreachable.served(exchange.endpoint)

    def picker_unreachable(self, pool: str, error: PeerUnreachable) -> None:
        """No address of the pool's picker could be reached."""
        self._warn("the picker cannot be reached", pool=pool, error=str(error))

    def picker_ended(self, pool: str, status: Status, *, decided: bool) -> None:
        """A picker's stream ended; before the pick, or with an error, that is worth a line."""
        if status != OK and not (decided and status.code == OK.code):
            self._warn(
                "the picker ended a call",
                pool=pool,
                grpc_status=status.code,
                message=status.message[:200],
            )

    def _warn(self, event: str, **fields: str | int) -> None:
        """Log what may happen a thousand times a second: the first at once, then by the count."""
        key = (event, fields.get("pool"), fields.get("reason"))
        if (count := self._repeats.due(key)) is not None:
            log.warning(event, times=count, **fields)

    # --- pools ---

    def wait_for_pool(self, session: Session) -> None:
        """Tell `session` of every new snapshot of its pool until `stop_waiting`."""
        self._waiting.add(session)
        self._wanted(session.pool)

    def stop_waiting(self, session: Session) -> None:
        """The session waits no longer."""
        self._waiting.discard(session)

    def _pools_changed(self, changed: object) -> None:
        del changed
        self.pickers.follow(
            {
                name: (snapshot.picker, snapshot.pool)
                for name, snapshot in self.store.snapshots.items()
            }
        )
        for session in list(self._waiting):
            session.pool_changed()

    # --- the end ---

    def hurry(self) -> None:
        """Wait no longer for what pickers owe to responses: those would be cut off with the drain's end."""
        for session in list(self._sessions):
            session.hurry()

    def close(self) -> None:
        """Stop following the pools."""
        self._unsubscribe()


def _why(pool: str, reason: Reason, setting: str, said: str = "") -> dict[str, str]:
    """What a log line says of a failure; `setting` is the deadline or the bound that decided it, `said` the
    picker's words that were of no use."""
    why = {"pool": pool, "reason": str(reason)}
    if said:
        why["picker_said"] = said
    if setting:
        why["hint"] = f"a setting ended it: raise {ANNOTATION_PREFIX}{setting} if it was too early"
    return why
