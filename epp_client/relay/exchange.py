"""Exchange: the state machine of one request between Envoy and the pool's endpoint picker.

Its events are messages, closed streams and timers; it returns actions. Pure: no asyncio, no sockets, no
clock, no randomness. Two rules hold in every phase:

- Envoy gets each answer exactly once, in the only order that it accepts.
- Whatever the picker does, the request is either sent complete, or refused with a reason. A response that
  has begun continues.

If the picker's stream dies before any of its answers was released, a new stream is opened, on another
address if there is one. This is done while the request is retained and the pick's deadline has not passed.

The table in `transitions` says what each event does in each phase. `state` has the data.
"""

from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr

from epp_client.errors import EnvoyViolation, PickerViolation, Reason
from epp_client.ext_proc.messages import Answer, Message, Phase, ended, read_message, read_reply
from epp_client.picker.preparation import LocalPick
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.relay.actions import Action, Timer
from epp_client.relay.growth import Overgrown
from epp_client.relay.lane import NotRetained
from epp_client.relay.originals import Fidelity
from epp_client.relay.phases import UNDECIDED, ExchangePhase, Signal
from epp_client.relay.request_phase import begin, relay_request, request_reply
from epp_client.relay.response_phase import relay_response, response_reply
from epp_client.relay.result import Result
from epp_client.relay.retention import RetentionBudget
from epp_client.relay.state import State
from epp_client.relay.transitions import ON_MESSAGE, ON_REPLY, ON_SIGNAL
from epp_client.relay.uses import Use
from epp_client.relay.without_picker import blame

MAX_PLAIN_ANSWER: Final = 1024 * 1024
"""Largest size of an answer that is not about a body, in bytes: many times Envoy's limit for headers."""

VIOLATIONS: Final = (EnvoyViolation, PickerViolation, NotRetained, Overgrown)
"""The errors that handlers of events raise."""
# Constants, because a member of an enum that is not compiled costs two look-ups for each request.
_READ: Final = Use.READ
_CHANGED: Final = Use.CHANGED
_KEPT: Final = Fidelity.KEPT
_IMMEDIATE: Final = bytes((Answer.IMMEDIATE << 3 | 2,))
_RESPONSE_BODY: Final = int(Phase.RESPONSE_BODY)
_BEGIN: Final = begin
_RELAY_REQUEST: Final = relay_request
_REQUEST_REPLY: Final = request_reply
_RELAY_RESPONSE: Final = relay_response
_RESPONSE_REPLY: Final = response_reply
_TIMER_SIGNALS: Final = {
    Timer.PICK: Signal.PICK_RANG,
    Timer.ENDPOINT: Signal.ENDPOINT_RANG,
    Timer.RESPONSE: Signal.RESPONSE_RANG,
    Timer.TRAILERS: Signal.TRAILERS_RANG,
    Timer.END: Signal.END_RANG,
}


class Said(NamedTuple):
    """What Envoy and the picker said about one request."""

    headers: bytes
    """Envoy's message with the request headers."""
    answer: bytes
    """The picker's answer to them; empty if there is none."""
    pick: str
    """The destinations that the picker named, as it wrote them."""


@mypyc_attr(free_list_len=1)
class Exchange:
    """One request's exchange. Every event returns the actions to carry out, in order."""

    def __init__(
        self,
        snapshot: PoolSnapshot,
        *,
        local_pick: LocalPick,
        budget: RetentionBudget,
        trailers_expected: bool = True,
        destinations: int | None = None,
    ) -> None:
        """`trailers_expected`: False if this picker is known to ignore trailers. `destinations`: the
        longest list of endpoints that Envoy accepts; None for no limit.
        """
        self.state = state = State(
            snapshot,
            local_pick=local_pick,
            budget=budget,
            trailers_expected=trailers_expected,
            destinations=destinations,
        )
        self.result: Result = state.result

    # --- what the session asks ---

    @property
    def closed(self) -> bool:
        """Whether the exchange is over."""
        return self.state.phase is ExchangePhase.CLOSED

    @property
    def settled(self) -> bool:
        """Whether the picker's answer, or its failure, has decided the request."""
        state = self.state
        return state.result.outcome is not None or state.phase is ExchangePhase.WAITING_FOR_END

    @property
    def request_ended(self) -> bool:
        """Whether Envoy has sent the whole request."""
        return self.state.request.ended

    @property
    def request_lost(self) -> bool:
        """Whether the body of the request was too large to be retained."""
        return self.state.request.lost

    @property
    def retries(self) -> int:
        """How often the picker was asked again."""
        return max(0, self.state.attempts - 1)

    @property
    def retained(self) -> int:
        """Bytes of bodies that are retained now."""
        return self.state.request.retained + self.state.response.retained

    @property
    def request_bytes(self) -> int:
        """Bytes of the request's body that Envoy has sent."""
        return self.state.request_bytes

    @property
    def response_bytes(self) -> int:
        """Bytes of the response's body that Envoy has sent."""
        return self.state.response_bytes

    @property
    def said(self) -> Said:
        """The messages that a record of the request is made from."""
        state = self.state
        answer, pick = state.header_reply, state.pick
        return Said(
            state.request.headers,
            b"" if answer is None else answer.raw,
            "" if pick is None else pick.text,
        )

    @property
    def response_use(self) -> Use | None:
        """What the picker has made of the response. None: it was not asked, or has not answered."""
        use = self.result.response_use
        if use is _READ and self.state.response.originals.fidelity is not _KEPT:
            return _CHANGED
        return use

    @property
    def observed(self) -> bool:
        """Whether the picker only gets copies of the response. These may be dropped if it is slow."""
        return self.state.response.passing

    @property
    def stalled(self) -> bool:
        """Whether the backlog to the picker is full."""
        return self.state.stalled

    # --- events ---

    def from_envoy(self, raw: bytes, *, followed: bool = False) -> list[Action]:
        """Take one ProcessingRequest. `followed`: the next one has arrived too.

        Envoy sends the end of a body as an empty part of its own. If it is here already, the picker gets
        it with the part before it: a message less in each direction, and an answer less for Envoy.
        """
        state = self.state
        if state.phase is ExchangePhase.CLOSED or state.phase is ExchangePhase.ANSWERING:
            return []
        state.growth.tell(len(raw))
        held, state.held = state.held, None
        try:
            message = read_message(raw)
            if held is not None:
                if message.phase is held.phase and message.end_of_stream and not message.end:
                    message = ended(held)
                else:
                    self._take(held)
            if followed and message.end and not message.end_of_stream:
                state.held = message
            else:
                self._take(message)
        except EnvoyViolation as error:
            if held is not None:
                self._take(held)
            if not self.closed:
                blame(state, error)
        return state.out.take()

    def _take(self, message: Message) -> None:
        """Handle a message of Envoy."""
        state = self.state
        if state.phase is ExchangePhase.CLOSED or state.phase is ExchangePhase.ANSWERING:
            return
        try:
            # As int: compiled code needs ten times as long to index with a member of an enum.
            kind: int = message.phase
            phase: int = state.phase
            if message.end:
                if kind == _RESPONSE_BODY:
                    state.response_bytes += message.end - message.start
                else:
                    state.request_bytes += message.end - message.start
            on_message = ON_MESSAGE[kind][phase]
            # The usual ones by name: compiled, a call through the table takes five times as long.
            if on_message is _RELAY_RESPONSE:
                relay_response(state, message)
            elif on_message is _RELAY_REQUEST:
                relay_request(state, message)
            elif on_message is _BEGIN:
                begin(state, message)
            else:
                on_message(state, message)
        except VIOLATIONS as error:
            blame(state, error)

    def from_picker(self, raw: bytes) -> list[Action]:
        """Take one ProcessingResponse."""
        state = self.state
        if not state.picker_open:
            return []
        request = state.request
        try:
            state.growth.say(len(raw), released=request.headers_sent)
            if state.result.passthrough is not None and request.complete and raw[:1] != _IMMEDIATE:
                # The response continues without the picker, so its answers are ignored.
                return []
            reply = read_reply(raw)
            answer = reply.answer
            if len(raw) > MAX_PLAIN_ANSWER and not (
                answer is Answer.REQUEST_BODY or answer is Answer.RESPONSE_BODY
            ):
                raise PickerViolation("an answer of more than 1 MiB that is not about a body")
            kind: int = answer
            phase: int = state.phase
            on_reply = ON_REPLY[kind][phase]
            if on_reply is _RESPONSE_REPLY:
                response_reply(state, reply)
            elif on_reply is _REQUEST_REPLY:
                request_reply(state, reply)
            else:
                on_reply(state, reply)
        except VIOLATIONS as error:
            blame(state, error)
        return state.out.take()

    def picker_closed(self, reason: Reason | None, *, died: bool = False) -> list[Action]:
        """The picker's stream has ended, with OK (None) or because of `reason`. `died`: it was cut off, so
        another stream may succeed."""
        if died:
            return self._signal(Signal.PICKER_DIED, reason)
        return self._signal(Signal.PICKER_ENDED if reason is None else Signal.PICKER_FAILED, reason)

    def picker_stalled(self, stalled: bool) -> list[Action]:
        """The backlog to the picker is full, or has room again."""
        state = self.state
        if not state.picker_open or state.stalled is stalled:
            return []
        state.stalled = stalled
        return self._signal(Signal.PICKER_STALLED)

    def picker_silent(self, reason: Reason = Reason.PICKER_UNHEALTHY) -> list[Action]:
        """The picker that was asked does not answer anything, health checks included; or the drain ends
        soon, so there is no time to wait for it."""
        return self._signal(Signal.PICKER_SILENT, reason)

    def timer_rang(self, timer: Timer) -> list[Action]:
        """A deadline has passed."""
        self.state.armed[timer] = False
        return self._signal(_TIMER_SIGNALS[timer])

    def pool_changed(self, snapshot: PoolSnapshot) -> list[Action]:
        """The pool has a newer snapshot. Its table is used to judge the pick. Everything else (failure
        mode, deadlines, picker) stays as it was when the request began."""
        state = self.state
        if snapshot is state.snapshot or not UNDECIDED[state.phase]:
            return []
        state.snapshot = snapshot
        return self._signal(Signal.POOL_CHANGED)

    def envoy_closed(self) -> list[Action]:
        """Envoy has half-closed or reset its stream: it sends nothing more, and reads nothing."""
        return self._signal(Signal.ENVOY_CLOSED)

    def _signal(self, signal: Signal, reason: Reason | None = None) -> list[Action]:
        state = self.state
        try:
            kind: int = signal
            phase: int = state.phase
            ON_SIGNAL[kind][phase](state, reason)
        except VIOLATIONS as error:
            blame(state, error)
        return state.out.take()
