"""Session: carries out what one Exchange decides, on two streams and a clock.

All asyncio and none of the policy: bytes between the streams and the Exchange, timers, back-pressure,
and the account of what happened. Ends when Envoy's stream ends, and leaves nothing behind.
"""

import asyncio
from typing import TYPE_CHECKING

from epp_client.errors import PickerUnreachable, Reason
from epp_client.picker.client import PROCESS
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
from epp_client.wire.grpc import DEADLINE_EXCEEDED, UNAVAILABLE
from epp_client.wire.transport import OK, Connection, Status, Stream

if TYPE_CHECKING:
    from epp_client.sidecar.ext_proc_service import ExtProcService

MAX_PENDING_COPIES = 1024 * 1024
"""Bytes of copies (observed responses) that may wait for a slow picker before it loses the rest."""


class Session:
    """One ext_proc stream of Envoy's. Implements `StreamEvents` for it."""

    def __init__(
        self, service: "ExtProcService", stream: Stream, pool: str, exchange: Exchange
    ) -> None:
        self._service = service
        self._envoy = stream
        self.pool = pool
        self._exchange = exchange
        self._loop = asyncio.get_running_loop()
        self._picker: Stream | None = None
        self._picker_events: _PickerEvents | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pending: list[bytes] = []  # for the picker, until its stream is open
        self._picker_paused = False
        self._copied = 0
        self._timers: dict[Timer, asyncio.TimerHandle] = {}
        self._ended_at: float | None = None
        self._pick_seconds: float | None = None
        self._endpoint: str | None = None
        self._over = False

    # --- StreamEvents: Envoy's stream ---

    def message_received(self, message: bytes) -> None:
        """A ProcessingRequest."""
        exchange = self._exchange
        self._do(exchange.from_envoy(message))
        if self._ended_at is None and exchange.request_ended:
            self._ended_at = self._loop.time()
        self._account()

    def half_closed(self) -> None:
        """Envoy wants nothing more."""
        self._do(self._exchange.envoy_closed())
        self._end()

    def closed(self, status: Status) -> None:
        """Envoy reset the stream, or its connection broke."""
        del status
        self._do(self._exchange.envoy_closed())
        self._end()

    def pause_writing(self) -> None:
        """Envoy takes no more for now: neither do we, from the picker."""
        if self._picker is not None:
            self._picker.pause_reading()

    def resume_writing(self) -> None:
        """Envoy takes messages again."""
        if self._picker is not None:
            self._picker.resume_reading()

    # --- the picker's stream, told by _PickerEvents ---

    def picker_said(self, message: bytes) -> None:
        """A ProcessingResponse."""
        exchange = self._exchange
        if exchange.outcome is None:
            snapshot = self._service.store.snapshots.get(self.pool)
            if snapshot is not None:
                self._do(exchange.pool_changed(snapshot))
        self._do(exchange.from_picker(message))
        self._account()

    def picker_closed(self, status: Status) -> None:
        """The picker's stream ended; the one place where its gRPC status becomes a reason."""
        self._picker = None
        reason: Reason | None = Reason.PICKER_ERROR
        if status.code == 0:
            reason = None
        elif status.code == UNAVAILABLE:
            reason = Reason.PICKER_UNREACHABLE
        elif status.code == DEADLINE_EXCEEDED:
            reason = Reason.PICKER_TIMEOUT
        self._service.picker_ended(self.pool, status, decided=self._exchange.outcome is not None)
        self._resume_envoy()
        self._do(self._exchange.picker_closed(reason))
        self._account()

    def pause_picker(self) -> None:
        """The picker takes no more for now: neither do we, from Envoy, unless these are copies."""
        self._picker_paused = True
        if not self._exchange.observed:
            self._envoy.pause_reading()

    def resume_picker(self) -> None:
        """The picker takes messages again."""
        self._copied = 0
        self._resume_envoy()

    def _resume_envoy(self) -> None:
        if self._picker_paused:
            self._picker_paused = False
            self._envoy.resume_reading()

    # --- doing ---

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case ToEnvoy(message):
                    self._envoy.send(message)
                case ToPicker(message):
                    self._to_picker(message)
                case Arm(timer, seconds):
                    self._arm(timer, seconds)
                case Disarm(timer):
                    if (handle := self._timers.pop(timer, None)) is not None:
                        handle.cancel()
                        if timer is Timer.ENDPOINT:
                            self._service.stop_waiting(self)
                case OpenPicker():
                    self._open_picker()
                case FinishPicker():
                    self._leave_picker(cancel=False)
                case CancelPicker():
                    self._leave_picker(cancel=True)
                case FinishEnvoy():
                    self._envoy.finish(OK)

    def _to_picker(self, message: bytes) -> None:
        if self._picker is None:
            if self._connecting is not None:
                self._pending.append(message)
            return
        if self._picker_paused and self._exchange.observed:
            # The picker fell silent while it held Envoy back: a copy may not slow the client down.
            self._envoy.resume_reading()
            self._copied += len(message)
            if self._copied > MAX_PENDING_COPIES:
                self._leave_picker(cancel=True)
                self._do(self._exchange.picker_closed(Reason.PICKER_TIMEOUT))
                return
        self._picker.send(message)

    def _arm(self, timer: Timer, seconds: float) -> None:
        if (handle := self._timers.pop(timer, None)) is not None:
            handle.cancel()
        self._timers[timer] = self._loop.call_later(seconds, self._rang, timer)
        if timer is Timer.ENDPOINT:
            self._service.wait_for_pool(self)

    def _rang(self, timer: Timer) -> None:
        del self._timers[timer]
        if timer is Timer.ENDPOINT:
            self._service.stop_waiting(self)
        self._do(self._exchange.timer_rang(timer))
        self._account()

    def pool_changed(self) -> None:
        """The pool of a waiting pick has a new snapshot."""
        snapshot = self._service.store.snapshots.get(self.pool)
        if snapshot is not None:
            self._do(self._exchange.pool_changed(snapshot))
            self._account()

    # --- the picker's stream ---

    def _open_picker(self) -> None:
        client = self._service.pickers[self.pool]
        connection = client.ready()
        if connection is not None:
            self._start(connection)
        else:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            connection = await self._service.pickers[self.pool].connect()
        except PickerUnreachable as error:
            self._connecting = None
            self._pending.clear()
            self._service.picker_unreachable(self.pool, error)
            self._do(self._exchange.picker_closed(Reason.PICKER_UNREACHABLE))
            self._account()
            return
        self._connecting = None
        self._start(connection)
        pending, self._pending = self._pending, []
        for message in pending:
            if self._picker is not None:
                self._picker.send(message)

    def _start(self, connection: Connection) -> None:
        self._picker_events = events = _PickerEvents(self)
        self._picker = connection.open(PROCESS, {}, events)

    def _leave_picker(self, *, cancel: bool) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._pending.clear()
        picker, self._picker = self._picker, None
        if self._picker_events is not None:
            self._picker_events.session = None
            self._picker_events = None
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
        if exchange.endpoint != self._endpoint:
            in_flight = self._service.in_flight
            if self._endpoint is not None:
                in_flight.end(self._endpoint)
            self._endpoint = exchange.endpoint
            if self._endpoint is not None:
                in_flight.begin(self._endpoint)
        if self._pick_seconds is None and exchange.outcome is not None:
            self._pick_seconds = (
                0.0 if self._ended_at is None else self._loop.time() - self._ended_at
            )
        if exchange.closed:
            self._end()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        self._service.stop_waiting(self)
        self._leave_picker(cancel=False)
        if self._endpoint is not None:
            self._service.in_flight.end(self._endpoint)
        self._service.session_ended(self, self._exchange, self._pick_seconds)


class _PickerEvents:
    """`StreamEvents` of the picker's stream; deaf once the session has left it."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session: Session | None = session

    def message_received(self, message: bytes) -> None:
        if self.session is not None:
            self.session.picker_said(message)

    def half_closed(self) -> None:
        """Only servers see this."""

    def closed(self, status: Status) -> None:
        if self.session is not None:
            self.session.picker_closed(status)

    def pause_writing(self) -> None:
        if self.session is not None:
            self.session.pause_picker()

    def resume_writing(self) -> None:
        if self.session is not None:
            self.session.resume_picker()
