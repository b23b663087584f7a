"""Session: the asyncio shell of one Exchange. It carries out what the Exchange decides.

It moves messages between the two streams and the Exchange, and does timers, back-pressure and accounting.
It has no policy. It ends when Envoy's stream ends, and then has released everything.
"""

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Final

from mypy_extensions import mypyc_attr

from epp_client.data_plane.deadlines import Deadline
from epp_client.data_plane.picker_events import PickerEvents, PickerUser
from epp_client.data_plane.shared import Shared, Timings
from epp_client.data_plane.verdicts import decided, ended_undecided, reason_of, was_cut_off
from epp_client.errors import PeerUnreachable, Reason
from epp_client.ext_proc.identity import trace_context
from epp_client.metrics.counters import PoolCounters
from epp_client.picker.address import PickerAddress
from epp_client.picker.client import PROCESS, PickerClient
from epp_client.relay.actions import (
    Action,
    Arm,
    CancelPicker,
    Disarm,
    FinishEnvoy,
    FinishPicker,
    OpenPicker,
    Timer,
    ToEnvoy,
    ToPicker,
)
from epp_client.relay.exchange import Exchange
from epp_client.wire.status import INTERNAL, OK, Status
from epp_client.wire.transport import Stream

MAX_PENDING: Final = 256 * 1024
"""Bytes that may wait for a connection to the picker before the session stops reading from Envoy."""
MAX_PENDING_COPIES: Final = 1024 * 1024
"""Bytes of copies that may wait for a slow picker. Above it, the session closes the picker's stream."""

_NO_TIMERS: Final[list[Deadline | None]] = [None] * len(Timer)
_BROKEN: Final = Status(INTERNAL, "the message has begun and cannot be completed")


@mypyc_attr(free_list_len=1)
class Session(PickerUser):
    """One ext_proc stream from Envoy. It is the `StreamEvents` of that stream."""

    def __init__(
        self,
        shared: Shared,
        stream: Stream,
        pool: str,
        exchange: Exchange,
        counters: PoolCounters,
        metadata: Mapping[str, str],
    ) -> None:
        """`metadata`: of Envoy's stream."""
        self._shared = shared
        self._envoy, self._metadata = stream, metadata
        self.pool = pool
        self.counters = counters
        self._exchange = exchange
        self._loop = shared.loop
        self._picker: Stream | None = None
        self._picker_events: PickerEvents | None = None
        # The address that is asked, or was asked last.
        self._address: PickerAddress | None = None
        self._picks_before = 0
        # Changes of the pools that the exchange knows.
        self._changes = shared.store.changes
        self._connecting: asyncio.Task[None] | asyncio.Handle | None = None
        # Messages for the picker, until its stream is open.
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._picker_paused = False
        # Reading from Envoy is paused, because the backlog to the picker is full.
        self._holding = False
        self._copied = 0
        self._timers: list[Deadline | None] = _NO_TIMERS.copy()
        self._began_at = monotonic()
        self._ended_at: float | None = None
        self._waits_at: float | None = None
        self._asked_at: float | None = None
        self._decided_at: float | None = None
        self._pick_seconds: float | None = None
        self._endpoint: str | None = None
        self._gaps = shared.gaps(counters)
        self._over = False

    # --- StreamEvents: Envoy's stream ---

    def message_received(self, message: bytes) -> None:
        """A ProcessingRequest."""
        exchange = self._exchange
        self._do(exchange.from_envoy(message, followed=self._envoy.followed()))
        if self._ended_at is None and exchange.request_ended:
            self._ended_at = monotonic()
        if self._gaps is not None:
            self._gaps.received(exchange.response_bytes)
        self._account()

    def half_closed(self) -> None:
        """Envoy has closed its side: it needs no further answers."""
        self._do(self._exchange.envoy_closed())
        self._end()

    def closed(self, status: Status) -> None:
        """Envoy reset the stream, its connection broke, or we failed."""
        del status
        try:
            self._do(self._exchange.envoy_closed())
        finally:
            self._end()

    def pause_writing(self) -> None:
        """The backlog to Envoy is full: read nothing more from the picker."""
        if self._picker is not None:
            self._picker.pause_reading()

    def resume_writing(self) -> None:
        """The backlog to Envoy has room again: read from the picker."""
        if self._picker is not None:
            self._picker.resume_reading()

    # --- the picker's stream, called by PickerEvents ---

    def picker_said(self, message: bytes) -> None:
        """A ProcessingResponse."""
        exchange = self._exchange
        if self._address is not None:
            self._address.heard = True
        if self._changes != self._shared.store.changes and exchange.result.outcome is None:
            self.pool_changed()
        self._do(exchange.from_picker(message))
        self._account()

    def picker_closed(self, status: Status) -> None:
        """The picker's stream ended."""
        self._picker = None
        self._picker_events = None
        address = self._address
        died = was_cut_off(status)
        if address is not None:
            address.following.discard(self)
            if died and status.said:
                # The picker ended the stream itself. Another address may answer, so ask it. gRPC core sends
                # the same status for calls that it cancels at its shutdown, after a GOAWAY.
                died = not address.ready or self._shared.pickers[self.pool].has_other(address)
            if self._exchange.result.outcome is None:
                if status != OK:
                    address.failed(f"it ended a call: {status.message[:200] or status.code}")
                ended_undecided(address, self, status, self._picks_before)
        self._shared.account.picker_ended(
            self.pool, status, decided=self._exchange.result.outcome is not None
        )
        self._resume_envoy()
        self._do(self._exchange.picker_closed(reason_of(status), died=died))
        self._account()

    def address_given_up(self) -> None:
        """See `Waiting`: the address has failed, so stop waiting for its pick."""
        self._leave_picker(cancel=True)
        self._do(self._exchange.picker_closed(Reason.PICKER_UNHEALTHY, died=True))
        self._account()

    def address_silent(self) -> None:
        """See `Waiting`: stop waiting for the picker's answers to the response."""
        self._do(self._exchange.picker_silent())
        self._account()

    def hurry(self) -> None:
        """The drain ends soon and would cut responses off: do not wait for the picker any longer."""
        self._do(self._exchange.picker_silent(Reason.PICKER_TIMEOUT))
        self._account()

    def pause_picker(self) -> None:
        """The backlog to the picker is full: stop reading from Envoy, unless the picker gets copies."""
        self._picker_paused = True
        if not self._exchange.observed:
            self._holding = True
            self._envoy.pause_reading()
            self._do(self._exchange.picker_stalled(True))

    def resume_picker(self) -> None:
        """The backlog to the picker has room again: read from Envoy."""
        self._copied = 0
        self._do(self._exchange.picker_stalled(False))
        self._resume_envoy()

    def _resume_envoy(self) -> None:
        self._picker_paused = False
        self._let_go()

    def _let_go(self) -> None:
        """Read from Envoy again, in the next turn of the event loop. Reading delivers buffered messages at
        once, and the current action has to finish first."""
        if self._holding:
            self._holding = False
            self._loop.call_soon(self._read_envoy)

    def _read_envoy(self) -> None:
        if not self._holding:
            self._envoy.resume_reading()

    # --- doing ---

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            # No match statement: in compiled code a class pattern costs ten times as much as isinstance.
            if isinstance(action, ToEnvoy):
                self._envoy.send(action.message)
            elif isinstance(action, ToPicker):
                self._to_picker(action.message)
            elif isinstance(action, Disarm):
                self._disarm(action.timer)
            elif isinstance(action, Arm):
                self._arm(action.timer, action.seconds)
            elif isinstance(action, OpenPicker):
                self._open_picker()
            elif isinstance(action, FinishPicker):
                self._leave_picker(cancel=False)
            elif isinstance(action, CancelPicker):
                self._leave_picker(cancel=True)
            elif isinstance(action, FinishEnvoy):
                self._envoy.finish(OK)
            else:
                self._envoy.finish(_BROKEN)
        if self._holding and self._exchange.observed:
            # Copies must not slow the client down.
            self._let_go()

    def _to_picker(self, message: bytes) -> None:
        if self._picker is None:
            if self._connecting is not None:
                self._pending.append(message)
                self._pending_bytes += len(message)
                if self._pending_bytes > MAX_PENDING and not self._picker_paused:
                    self.pause_picker()
            return
        if self._picker_paused and self._exchange.observed:
            self._copied += len(message)
            if self._copied > MAX_PENDING_COPIES:
                self._leave_picker(cancel=True)
                self._do(self._exchange.picker_closed(Reason.PICKER_TIMEOUT))
                return
        self._picker.send(message)

    def _arm(self, timer: Timer, seconds: float) -> None:
        self._disarm(timer)
        # As int: an enum is a slow index in compiled code.
        number: int = timer
        self._timers[number] = self._shared.deadlines.arm(self, timer, seconds)
        if timer is Timer.ENDPOINT:
            self._shared.wait_for_pool(self, self.pool)

    def _disarm(self, timer: Timer) -> None:
        number: int = timer
        deadline = self._timers[number]
        if deadline is not None:
            deadline.owner = None
            self._timers[number] = None
            if timer is Timer.ENDPOINT:
                self._shared.stop_waiting(self)

    def rang(self, timer: Timer) -> None:
        """A deadline of this session has passed."""
        self._timers[timer] = None
        if timer is Timer.ENDPOINT:
            self._shared.stop_waiting(self)
        self._do(self._exchange.timer_rang(timer))
        self._account()

    def pool_changed(self) -> None:
        """Pools have new snapshots. A pick may wait for one, and the next one is judged by it."""
        store = self._shared.store
        self._changes = store.changes
        snapshot = store.snapshots.get(self.pool)
        if snapshot is not None:
            self._do(self._exchange.pool_changed(snapshot))
            self._account()

    # --- the picker's stream ---

    def _open_picker(self) -> None:
        client = self._shared.pickers[self.pool]
        address = client.ready(self._address)
        if address is not None:
            self._start(address)
        elif client.hopeful:
            self._connecting = asyncio.create_task(self._connect(client))
        else:
            self._connecting = self._loop.call_soon(self._nobody_to_ask, client)

    async def _connect(self, client: PickerClient) -> None:
        self._waits_at = monotonic()
        try:
            address = await client.connect()
        except PeerUnreachable as error:
            self._shared.account.picker_unreachable(self.pool, error)
            self._nobody_to_ask(client)
            return
        self._connecting = None
        self._start(address)
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        self._picker_paused = False
        for message in pending:
            if self._picker is not None:
                self._picker.send(message)
        # The messages just sent may have filled the backlog again.
        if self._holding and not self._picker_paused:
            self.resume_picker()

    def _nobody_to_ask(self, client: PickerClient) -> None:
        self._connecting = None
        self._pending, self._pending_bytes = [], 0
        self._resume_envoy()
        self._do(self._exchange.picker_closed(client.reason))
        self._account()

    def _start(self, address: PickerAddress) -> None:
        connection = address.connection
        assert connection is not None
        self._address = address
        if self._shared.traces is not None:
            self._asked_at = monotonic()
        self._picks_before = address.picks
        address.waiting.add(self)
        self._picker_events = events = PickerEvents(self)
        self._picker = connection.open(PROCESS, trace_context(self._metadata), events)

    def _leave_picker(self, *, cancel: bool) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._pending, self._pending_bytes = [], 0
        picker, self._picker = self._picker, None
        if self._picker_events is not None:
            self._picker_events.user = None
            self._picker_events = None
        if self._address is not None:
            self._address.following.discard(self)
        if picker is not None:
            picker.resume_reading()
            if cancel:
                picker.cancel()
            else:
                picker.finish()
        self._resume_envoy()

    # --- the account ---

    def _account(self) -> None:
        exchange = self._exchange
        before, now_at = self._endpoint, exchange.result.endpoint
        # What Envoy reports is another object, though mostly the same endpoint.
        if now_at is not before:
            account = self._shared.account
            self._endpoint = now_at
            if before is not None:
                account.served(self.pool, self.counters, exchange)
            if now_at != before:
                if before is not None:
                    account.in_flight.end(before)
                if now_at is not None:
                    account.in_flight.begin(now_at)
        if self._pick_seconds is None and exchange.settled:
            self._decided_at = now = monotonic()
            self._pick_seconds = 0.0 if self._ended_at is None else now - self._ended_at
            if self._address is not None:
                decided(self._address, self, exchange, self._picks_before)
                if self._picker is not None:
                    self._address.following.add(self)
        if exchange.closed:
            self._end()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        for deadline in self._timers:
            if deadline is not None:
                self._disarm(deadline.timer)
        self._leave_picker(cancel=False)
        if self._address is not None and self._pick_seconds is None:
            self._address.undecided(self)
        if self._endpoint is not None:
            self._shared.account.in_flight.end(self._endpoint)
        shared, exchange = self._shared, self._exchange
        shared.sessions.discard(self)
        now, asked = monotonic(), "" if self._address is None else self._address.address
        shared.account.ended(
            self.pool,
            self.counters,
            exchange,
            self._metadata,
            asked,
            self._pick_seconds,
            now - self._began_at,
        )
        if shared.traces is not None:
            times = Timings(self._began_at, self._waits_at, self._asked_at, self._decided_at, now)
            shared.traces.ended(self.pool, exchange, self._metadata, asked, times)
        if exchange.result.trailers_answered is not None:
            shared.pickers.learn_trailers(self.pool, exchange.result.trailers_answered)
