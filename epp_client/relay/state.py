"""State: the data of one exchange, and the actions that it will return. Pure.

The handlers of `transitions` (in `request_phase`, `response_phase`, `answering`, `without_picker`) read
and change it.
"""

from typing import Final, final

from mypy_extensions import mypyc_attr

from epp_client.errors import PICK_REASONS, Reason
from epp_client.ext_proc.messages import Answer, Message
from epp_client.ext_proc.replies import with_trailers_mark
from epp_client.picker.pick import Pick
from epp_client.picker.preparation import LocalPick, RequestHeaders
from epp_client.picker.steering import HeaderReply
from epp_client.pool.endpoints import quotable
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.relay.actions import Arm, Disarm, Outbox, Timer
from epp_client.relay.growth import Growth
from epp_client.relay.lane import Lane
from epp_client.relay.outcome import Outcome
from epp_client.relay.phases import ExchangePhase
from epp_client.relay.result import Result
from epp_client.relay.retention import RetentionBudget

QUARTERS: Final = 4
"""A deadline for time without progress rings in four parts. A message only sets a count to zero, which is
cheaper than a new timer. Such a deadline is never early, and at most a quarter late."""
END_PATIENCE: Final = 0.25
"""Longest wait for the end of a request that could be released, in seconds. Most bodies arrive within
milliseconds, but a client may also wait for the response before it ends its request."""

_TIMERS: Final = tuple(Timer)
_UNARMED: Final = [False] * len(_TIMERS)
# As int, because an enum is a slow index in compiled code.
_PICK: Final = int(Timer.PICK)
_RESPONSE: Final = int(Timer.RESPONSE)
_END: Final = int(Timer.END)
_NAMED: Final = PICK_REASONS - {Reason.PICK_MISSING, Reason.PICK_DISAGREES}


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class State:
    """The data of one exchange."""

    def __init__(
        self,
        snapshot: PoolSnapshot,
        *,
        local_pick: LocalPick,
        budget: RetentionBudget,
        trailers_expected: bool,
        destinations: int | None,
    ) -> None:
        """See `Exchange`."""
        self.out = Outbox()
        self.phase = ExchangePhase.NEW
        self.result = Result()

        self.snapshot = snapshot
        self.pool = snapshot.pool
        self.settings = snapshot.pool.settings.of_requests
        self.local_pick = local_pick
        self.trailers_expected = trailers_expected
        self.destinations = destinations

        bound = self.settings.max_retained_body
        self.request = Lane(Answer.REQUEST_HEADERS, self.out, budget, bound)
        self.response = Lane(Answer.RESPONSE_HEADERS, self.out, budget, bound)
        self.growth = Growth(budget, self.settings.max_body_growth)

        self.held: Message | None = None
        """A part of a body whose end has arrived too, and may be joined with it."""
        self.headers: RequestHeaders | None = None
        """The request headers as they are sent to the picker."""
        self.upgrade = False
        """The request asks for an upgrade, for example to WebSocket: no body follows its headers."""
        self.headers_only = False
        """Envoy keeps the body of the request to itself."""
        self.chunk_by_chunk = False
        """The picker answers each chunk of the response."""

        self.request_bytes = 0
        """Bytes of the request's body."""
        self.response_bytes = 0
        """Bytes of the response's body."""
        self.attempts = 0
        """Number of streams to the picker that were opened."""
        self.header_reply: HeaderReply | None = None
        self.pick: Pick | None = None
        self.keys: tuple[str, ...] = ()
        """Destination endpoints of a pick that was judged valid."""
        self.stalled = False
        """The backlog to the picker is full, so reading from Envoy is paused."""

        self.armed = _UNARMED.copy()
        """By timer: whether it runs."""
        self.watching = False
        """Timer.PICK counts the silence of a request that is still being sent."""
        self.request_quiet = 0
        """Number of quarters of the deadline in which the request made no progress."""
        self.response_quiet = 0
        """The same for the response."""
        self.endpoint_wait = 0.0
        """Seconds for which Timer.ENDPOINT was armed."""
        self.end_awaited = False
        """The wait for the end of the request is over, or not worth it."""
        self.local: tuple[Outcome, Reason | None] | None = None
        """The outcome, and the reason for it, of a local pick that waits for the end of the request."""

    @property
    def picker_open(self) -> bool:
        """Whether there is a stream to the picker."""
        phase = self.phase
        return (
            phase is ExchangePhase.RELAYING
            or phase is ExchangePhase.PICKING
            or phase is ExchangePhase.WAITING_FOR_ENDPOINT
            or phase is ExchangePhase.ANSWERING
        )

    # --- timers ---

    @property
    def awaiting_end(self) -> bool:
        """Whether the header answer waits for the end of the request."""
        return self.armed[_END]

    @property
    def response_armed(self) -> bool:
        """Whether the response's deadline runs."""
        return self.armed[_RESPONSE]

    def arm(self, timer: Timer, seconds: float) -> None:
        """Start or restart a timer."""
        number: int = timer
        self.armed[number] = True
        self.out.add(Arm(timer, seconds))

    def disarm(self, timer: Timer) -> None:
        """Stop a timer, if it runs."""
        number: int = timer
        if self.armed[number]:
            self.armed[number] = False
            self.out.add(Disarm(timer))

    def disarm_all(self) -> None:
        """Stop every timer that runs."""
        for number, runs in enumerate(self.armed):
            if runs:
                self.disarm(_TIMERS[number])

    def arm_pick(self, *, anew: bool = False) -> None:
        """Start the pick's deadline. While Envoy is sending the request, it counts the time without
        progress. When Envoy has sent everything, or is paused, it is final. `anew`: restart it if it
        runs."""
        phase = self.phase
        if (
            self.request.complete
            or phase is ExchangePhase.WAITING_FOR_ENDPOINT
            or phase is ExchangePhase.WAITING_WITHOUT_PICKER
        ):
            return
        timeout = self.settings.pick_timeout
        if self.request.ended or self.stalled:
            self.watching = False
            self.arm(Timer.PICK, timeout)
        elif anew or not (self.watching and self.armed[_PICK]):
            self.watching = True
            self.request_quiet = 0
            self.arm(Timer.PICK, timeout / QUARTERS)

    def waits_for_end(self) -> bool:
        """Whether the header answer should wait for the end of the request; starts the timer of the wait.
        Envoy retries only requests whose end came before the answer, see `with_trailers_mark`."""
        if not self.request.open or self.request.lost or self.upgrade or self.end_awaited:
            return False
        if not self.armed[_END]:
            self.arm(Timer.END, END_PATIENCE)
        return True

    # --- the result ---

    def decide(self, outcome: Outcome, keys: tuple[str, ...]) -> None:
        """The request goes to the first of `keys`."""
        result = self.result
        result.outcome, result.keys, result.endpoint = outcome, keys, keys[0]

    def fail(self, reason: Reason) -> None:
        """The picker's answer is not used, because of `reason`."""
        self.result.failure = reason
        if self.pick is not None and reason in _NAMED:
            self.result.misread = quotable(self.pick.text)

    def marked(self, headers: bytes) -> bytes:
        """The header answer. It is marked for Envoy if the request has trailers or may still have some.
        None follow an upgrade."""
        request = self.request
        marks = request.has_trailers or (request.open and not self.upgrade)
        return with_trailers_mark(headers) if marks else headers

    # --- the end ---

    def close(self) -> None:
        """The exchange is over: stop all timers, and drop everything that is retained."""
        self.phase = ExchangePhase.CLOSED
        self.forget()

    def forget(self) -> None:
        """Stop all timers, and drop everything that is retained."""
        self.disarm_all()
        self.held = None
        self.growth.forget()
        self.request.release()
        self.response.release()
