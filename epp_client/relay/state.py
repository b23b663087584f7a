"""State: what one exchange knows, and what it wants done. Pure.

The two directions are lanes; here is what they have in common: the picker's stream, the pick, what has
become of it all. The phases (`request_phase`, `response_phase`, `without_picker`) are functions that
read and change it; `exchange` tells them what has happened.
"""

from typing import Final

from epp_client.errors import Reason
from epp_client.ext_proc.messages import Answer
from epp_client.ext_proc.replies import refusal, with_trailers_mark
from epp_client.picker.mutations import Omissions
from epp_client.picker.pick import Pick
from epp_client.picker.preparation import LocalPick, RequestHeaders, is_grpc
from epp_client.picker.steering import HeaderReply
from epp_client.pool.endpoints import quotable
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.relay.actions import (
    Action,
    Arm,
    CancelPicker,
    Disarm,
    FailEnvoy,
    FinishEnvoy,
    Timer,
    ToEnvoy,
)
from epp_client.relay.lane import Lane
from epp_client.relay.outcome import Eviction, Outcome
from epp_client.relay.retention import RetentionBudget

QUARTERS: Final = 4
"""Rings in a deadline for silence. A message clears a count, which costs it nothing; the deadline is kept
to a quarter: it is never early, and at most a quarter late."""

GROWTH_STEP: Final = 64 * 1024
"""Bytes by which an exchange may grow at a time: most never do by as much, and need no account of it."""

_DISARM_ALL: Final = [Disarm(timer) for timer in Timer]

_NAMED: Final = frozenset(
    (Reason.PICK_MALFORMED, Reason.PICK_OUTSIDE_POOL, Reason.PICK_OUTSIDE_SUBSET)
)


class State:
    """What one exchange knows. `out` are the actions that nobody has taken yet."""

    def __init__(
        self,
        snapshot: PoolSnapshot,
        *,
        local_pick: LocalPick,
        budget: RetentionBudget,
        trailers_expected: bool = True,
        destinations: int | None = None,
    ) -> None:
        """`trailers_expected`: False when this picker is known to ignore trailers. `destinations`: how
        many of an ordered list Envoy can take; None for all.
        """
        self.snapshot = snapshot
        self.settings = snapshot.pool.settings
        self.pool = snapshot.pool
        self.budget = budget
        self.local_pick = local_pick
        self.trailers_expected = trailers_expected
        self.destinations = destinations
        bound = self.settings.max_retained_body
        self.request = Lane(Answer.REQUEST_HEADERS, budget, bound)
        self.response = Lane(Answer.RESPONSE_HEADERS, budget, bound)
        self.headers: RequestHeaders | None = None
        self.envoy_headers = b""
        self.response_headers = b""
        self.envoy_trailers = b""
        self.response_trailers = b""
        self.attempts = 0

        self.header_reply: HeaderReply | None = None
        self.pick: Pick | None = None
        self.keys: tuple[str, ...] = ()
        self.waiting_for_endpoint = False
        self.endpoint_wait = 0.0  # seconds, that it waits now
        self.upgrade = False  # to a WebSocket or the like: what follows the headers is no body

        self.picker_open = False
        self.answering = False  # the client, in the model server's place, message by message
        self.stalled = False  # it takes nothing for now, so that Envoy is held back
        self.ignore_picker = False  # in the response it still gets copies, but answers too late
        self.request_watched = False  # Timer.PICK counts the silence of a request being sent
        self.request_quiet = 0  # rings since something of the request moved
        self.response_armed = False
        self.response_quiet = 0
        self.chunk_by_chunk = False  # the response's chunks are to be answered one by one
        self.trailers_armed = False
        self.sent = 0  # what Envoy has sent, counted like `said`
        self.said = 0  # bytes of the picker's answers, each counted with MESSAGE_OVERHEAD more
        self.told = 0  # messages of Envoy's
        self.nothings = 0  # answers of the picker's that are too short to say anything
        self.grown = 0  # taken from the budget for what `said` exceeds `sent` by
        self.may_grow = min(
            GROWTH_STEP, self.settings.max_body_growth
        )  # until it is looked at again
        self.out: list[Action] = []

        self.outcome: Outcome | None = None
        """None until it is decided."""
        self.reason: Reason | None = None
        """Why it was refused or served without the picker."""
        self.failure: Reason | None = None
        """Why no answer of the picker's was used, whatever became of the request then."""
        self.hint = ""
        """The setting that decided it, when a bound or a deadline did; the name of its annotation."""
        self.passthrough: Reason | None = None
        """Why the picker had no say in (the rest of) the response."""
        self.eviction: Eviction | None = None
        """What came of it, when the picker gave up a request that it had steered."""
        self.endpoint: str | None = None
        """The served endpoint, or the destination endpoint while that is not known."""
        self.endpoint_failure: Reason | None = None
        """Why Envoy answered in the endpoint's place."""
        self.left_out: Omissions = {}
        """What was left out of the picker's answers."""
        self.trailers_answered: bool | None = None
        """What this exchange saw of the picker's habit with trailers."""
        self.closed = False

    def marked(self, headers: bytes) -> bytes:
        """The header answer, and a word to Envoy when the request is known to have trailers."""
        return with_trailers_mark(headers) if self.request.has_trailers else headers

    def arm_pick(self) -> None:
        """Start the pick's deadline: for good when Envoy has said all that it is about, or cannot; until
        then it counts how long nothing moves."""
        if self.request.complete or self.waiting_for_endpoint:
            return
        timeout = self.settings.pick_timeout
        if self.request.ended or self.stalled:
            self.request_watched = False
            self.out.append(Arm(Timer.PICK, timeout))
        elif not self.request_watched:
            self.request_watched = True
            self.request_quiet = 0
            self.out.append(Arm(Timer.PICK, timeout / QUARTERS))

    def disarm_pick(self) -> None:
        """Stop the pick's deadline."""
        self.request_watched = False
        self.out.append(Disarm(Timer.PICK))

    @property
    def misread(self) -> str:
        """What the picker named, as far as it may be logged, if that was why its answer was of no use."""
        if self.pick is None or self.failure not in _NAMED:
            return ""
        return quotable(self.pick.text)

    def refuse(self, reason: Reason) -> None:
        """Answer the client with an error, or cut off a response that has begun, and end both streams."""
        self.outcome, self.reason = Outcome.REFUSED, reason
        self.endpoint = None
        if self.picker_open:
            self.out.append(CancelPicker())
        if self.response.headers_sent:
            self.out.append(FailEnvoy())
        else:
            name = str(self.snapshot.pool.name)
            answer = refusal(reason, name, grpc=self._is_grpc(), picker_said=self.misread)
            self.out += (ToEnvoy(answer), FinishEnvoy())
        self.close()

    def _is_grpc(self) -> bool:
        return bool(self.envoy_headers) and is_grpc(self.envoy_headers)

    def forget_growth(self) -> None:
        """Envoy has got rid of what the picker said, or was never given it."""
        self.budget.give_back(self.grown)
        self.grown = self.said = 0
        self.may_grow = min(GROWTH_STEP, self.settings.max_body_growth)

    def send(self, messages: list[bytes]) -> None:
        """Have Envoy told, message by message."""
        for message in messages:
            self.out.append(ToEnvoy(message))

    def close(self) -> None:
        """The exchange is over: no timer runs, and nothing is kept."""
        self.closed = True
        self.picker_open = False
        self.forget()

    def forget(self) -> None:
        """No timer runs, and nothing is kept."""
        self.out += _DISARM_ALL
        self.forget_growth()
        for lane in (self.request, self.response):
            lane.discard_staged()
            lane.release()

    def take(self) -> list[Action]:
        """The actions that have come together, in order."""
        out, self.out = self.out, []
        return out
