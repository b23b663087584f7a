"""Exchange: the automaton of one request between Envoy and the pool's endpoint picker.

Messages, closings and rung timers go in; actions come out. Pure: no asyncio, no sockets, no clock, no
randomness. Two rules hold in every state: Envoy is answered in the only order it accepts, exactly
once; and whatever the picker does, the request either goes on whole or is refused with a reason, and
a response that has begun goes on.

A picker's stream that dies before any of its answers has been released is opened anew, on another
address where there is one, as long as the request is whole and the pick's deadline has not passed.

Here are the events, and whose part each is; what is done about them is in `request_phase`,
`response_phase` and `without_picker`, and what is known in `state`.
"""

from typing import Final

from epp_client.errors import EnvoyViolation, EppClientError, PickerViolation, Reason
from epp_client.ext_proc.messages import Answer, Message, Phase, Reply, read_message, read_reply
from epp_client.picker.immediate import immediate_response, streamed_immediate_response
from epp_client.pool.settings import EvictionMode
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.relay.actions import (
    Action,
    CancelPicker,
    FailEnvoy,
    FinishEnvoy,
    FinishPicker,
    Timer,
    ToEnvoy,
)
from epp_client.relay.lane import NotRetained
from epp_client.relay.outcome import Eviction, Outcome
from epp_client.relay.request_phase import (
    ask_picker,
    closed_after_pick,
    judge_again,
    may_retry,
    pick_rang,
    request_headers,
    request_reply,
    request_rest,
)
from epp_client.relay.response_phase import (
    pass_response,
    response_message,
    response_owed,
    response_progress,
    response_rang,
    response_reply,
    trailers_overdue,
)
from epp_client.relay.state import GROWTH_STEP, State
from epp_client.relay.without_picker import cut_off, distrust, drop_picker, without_picker

MAX_PLAIN_ANSWER: Final = 1024 * 1024
"""Bytes of an answer that is not about a body: many times what Envoy takes of headers."""

MESSAGE_OVERHEAD: Final = 1024
"""Bytes that a message counts beside its own: saying little, endlessly, has an end as well."""
NOTHING: Final = 10
"""Bytes of an answer that has neither a header nor a byte of a body."""
MAX_NOTHINGS: Final = 1000
"""Such answers to one request, beside one for each of Envoy's messages."""

VIOLATIONS: Final = (EnvoyViolation, PickerViolation, NotRetained)
"""All that an event may find broken."""
_IMMEDIATE: Final = bytes((Answer.IMMEDIATE << 3 | 2,))
_BODIES: Final = (Answer.REQUEST_BODY, Answer.RESPONSE_BODY)


class Exchange(State):
    """One request's exchange. Every event returns the actions to carry out, in order."""

    @property
    def request_ended(self) -> bool:
        """Whether Envoy has sent the whole request."""
        return self.request.ended

    @property
    def retries(self) -> int:
        """How often the picker was asked anew."""
        return max(0, self.attempts - 1)

    @property
    def request_lost(self) -> bool:
        """Whether the request's body was too large to be kept."""
        return self.request.lost

    @property
    def retained(self) -> int:
        """Bytes of bodies held now."""
        return self.request.retained + self.response.retained

    @property
    def observed(self) -> bool:
        """Whether the picker only gets copies: what it cannot take may be dropped."""
        return self.response.passing

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Destinations that took no connection: those before the served one in the list; of a request that
        Envoy could not send anywhere, all that it has tried."""
        if self.endpoint not in self.keys:
            return ()
        at = self.keys.index(self.endpoint)
        return self.keys[: at + (self.endpoint_failure is Reason.ENDPOINT_UNREACHABLE)]

    # --- events ---

    def from_envoy(self, raw: bytes) -> list[Action]:
        """Take one ProcessingRequest."""
        if self.closed or self.answering:
            return []
        self.told += 1
        self.sent += len(raw) + MESSAGE_OVERHEAD
        try:
            self._message(read_message(raw))
        except VIOLATIONS as error:
            self._blame(error)
        return self.take()

    def from_picker(self, raw: bytes) -> list[Action]:
        """Take one ProcessingResponse."""
        if self.closed or not self.picker_open:
            return []
        self.said += len(raw) + MESSAGE_OVERHEAD
        if self.said - self.sent > self.may_grow and not self._grow():
            return self.take()
        if len(raw) <= NOTHING and self._says_nothing():
            return self.take()
        if self.ignore_picker and self.request.complete and raw[:1] != _IMMEDIATE:
            return []
        try:
            self._reply(read_reply(raw))
        except VIOLATIONS as error:
            self._blame(error)
        return self.take()

    def picker_closed(self, reason: Reason | None, *, died: bool = False) -> list[Action]:
        """The picker's stream is over: cleanly (None), or because of `reason`. `died`: through no
        answer of the picker's, so that another stream may fare better."""
        if self.closed or not self.picker_open:
            return []
        self.picker_open = False
        if self.answering:
            cut_off(self)
            return self.take()
        if died and may_retry(self):
            ask_picker(self)
            return self.take()
        if reason is None and self.pick is not None and self.header_reply is not None:
            try:
                closed_after_pick(self)
            except VIOLATIONS as error:
                self._blame(error)
            return self.take()
        without_picker(self, reason or Reason.PICKER_CLOSED, clean=reason is None)
        return self.take()

    def picker_stalled(self, stalled: bool) -> list[Action]:
        """The picker takes nothing more for now, or does again. What cannot get to its end because of that
        would never have a deadline."""
        if self.closed or not self.picker_open or self.stalled is stalled:
            return []
        self.stalled = stalled
        if not self.request.ended:
            self.request_watched = False
            self.arm_pick()
        response_progress(self)
        return self.take()

    def picker_silent(self, reason: Reason = Reason.PICKER_UNHEALTHY) -> list[Action]:
        """The picker answers nothing for now, health checks included, and was asked for its pick before; or
        there is no time left for it. What it owes to the request or the response is not waited for. What
        it does not owe can wait."""
        if self.closed or not self.picker_open or self.outcome is None:
            return []
        if self.request.owes:
            drop_picker(self, reason)
        elif response_owed(self):
            pass_response(self, reason)
        return self.take()

    def timer_rang(self, timer: Timer) -> list[Action]:
        """A deadline has passed."""
        if self.closed:
            return []
        if timer is Timer.PICK:
            pick_rang(self)
        elif timer is Timer.ENDPOINT:
            self.waiting_for_endpoint = False
            self._judge_again(last=True)
        elif timer is Timer.RESPONSE:
            response_rang(self)
        else:
            trailers_overdue(self)
        return self.take()

    def pool_changed(self, snapshot: PoolSnapshot) -> list[Action]:
        """The pool has a newer snapshot: a pick is judged by the newest table. All else (failure
        mode, deadlines, picker) stays what it was when the request began."""
        if self.closed or self.outcome is not None or snapshot is self.snapshot:
            return []
        self.snapshot = snapshot
        if self.waiting_for_endpoint:
            self._judge_again(last=False)
        return self.take()

    def envoy_closed(self) -> list[Action]:
        """Envoy has half-closed or reset its stream: nothing more will come or be read."""
        if self.closed:
            return []
        if self.outcome is None:
            self.outcome = Outcome.CANCELLED
        if self.picker_open:
            self.out.append(FinishPicker() if self.response.complete else CancelPicker())
        self.out.append(FinishEnvoy())
        self.close()
        return self.take()

    # --- whose part it is ---

    def _judge_again(self, *, last: bool) -> None:
        try:
            judge_again(self, last=last)
        except VIOLATIONS as error:
            self._blame(error)

    def _blame(self, error: EppClientError) -> None:
        """What Envoy breaks is refused; a picker that breaks something is of no use any more."""
        if isinstance(error, EnvoyViolation):
            self.refuse(Reason.ENVOY_PROTOCOL)
        else:
            distrust(self, error)

    def _message(self, message: Message) -> None:
        if message.phase is Phase.REQUEST_HEADERS:
            request_headers(self, message)
        elif message.phase is Phase.REQUEST_BODY or message.phase is Phase.REQUEST_TRAILERS:
            if self.headers is None:
                raise EnvoyViolation("Envoy began with something else than headers")
            request_rest(self, message)
        else:
            response_message(self, message)

    def _grow(self) -> bool:
        """Whether the picker may say so much more than it was told. Envoy takes it all at once, and keeps
        what upstream or client does not take: one exchange has a bound, and all have one together."""
        growth = self.said - self.sent
        if growth > self.settings.max_body_growth:
            self.hint = "max-body-growth"
            drop_picker(self, Reason.PICKER_PROTOCOL)
        elif not self.request.headers_sent:
            return True  # it waits here, and is counted as what waits
        elif not self.budget.has_room(growth - self.grown):
            drop_picker(self, Reason.OVERLOADED)
        else:
            self.budget.take(growth - self.grown)
            self.grown = growth
            self.may_grow = min(growth + GROWTH_STEP, self.settings.max_body_growth)
            return True
        return False

    def _says_nothing(self) -> bool:
        """Whether this picker only keeps everybody busy, so that its stream was ended."""
        self.nothings += 1
        if self.nothings <= self.told + MAX_NOTHINGS:
            return False
        drop_picker(self, Reason.PICKER_PROTOCOL)
        return True

    def _reply(self, reply: Reply) -> None:
        answer = reply.answer
        if len(reply.raw) > MAX_PLAIN_ANSWER and answer not in _BODIES:
            raise PickerViolation("an answer of megabytes that is not about a body")
        if self.answering and answer is not Answer.STREAMED_IMMEDIATE:
            return
        if answer is Answer.IMMEDIATE:
            self._immediate(reply)
        elif answer is Answer.STREAMED_IMMEDIATE:
            self._streamed_immediate(reply)
        elif answer is Answer.MORE_TIME:
            return  # Envoy has no deadline in full-duplex mode that it could put off
        elif (
            answer is Answer.REQUEST_BODY
            or answer is Answer.REQUEST_HEADERS
            or answer is Answer.REQUEST_TRAILERS
        ):
            request_reply(self, reply)
        elif self.outcome is None or not self.response.begun:
            raise PickerViolation("the picker answered a response that has not begun")
        elif not self.response.passing:
            response_reply(self, reply)

    def _immediate(self, reply: Reply) -> None:
        """A refusal is an answer, also under FailOpen. After the pick it is an eviction."""
        evicted = self.outcome is Outcome.STEERED
        response = self.response
        if response.complete:
            return  # the client has had all of it
        if response.headers_sent or (response.begun and response.passing):
            self._evict()
            return
        raw = immediate_response(reply.raw, self.left_out)
        self.outcome = Outcome.EVICTED if evicted else Outcome.REFUSED_BY_PICKER
        if evicted:
            self.eviction = Eviction.ANSWERED
        self.out += (ToEnvoy(raw), FinishPicker(), FinishEnvoy())
        self.close()

    def _evict(self) -> None:
        """Of a response that has begun the client can only be told by a reset."""
        if self.settings.eviction is EvictionMode.RESET:
            self.outcome, self.eviction = Outcome.EVICTED, Eviction.RESET
            self.out += (FinishPicker(), FailEnvoy())
            self.close()
            return
        self.eviction = Eviction.FINISHED
        self.picker_open = False
        self.out.append(FinishPicker())
        without_picker(self, Reason.PICKER_CLOSED, clean=True)

    def _streamed_immediate(self, reply: Reply) -> None:
        """An answer of the picker's in several messages. Envoy takes it in place of a header answer."""
        if self.request.headers_sent or self.response.begun:
            raise PickerViolation("a StreamedImmediateResponse came after the header answer")
        raw, last = streamed_immediate_response(reply.raw, self.left_out, first=not self.answering)
        if not self.answering:
            self.answering = True
            self.outcome = Outcome.REFUSED_BY_PICKER
            self.waiting_for_endpoint = False
            self.forget()
        self.out.append(ToEnvoy(raw))
        if last:
            self.out += (FinishPicker(), FinishEnvoy())
            self.close()
