"""Records of single requests: what was decided about them, and why. Plain values. Pure.

Every failure is recorded, and some of the other requests. Both are bounded for each process and second.
"""

from typing import Any, NamedTuple

from epp_client.errors import Reason
from epp_client.picker.health import AddressNote
from epp_client.relay.outcome import Eviction, Outcome


class Decision(NamedTuple):
    """One request that has ended. It has no headers, no bodies, and nothing of either but identifiers."""

    at: float
    """Unix time in seconds at its end."""
    pool: str
    """`namespace/name`, or `unknown`."""
    outcome: Outcome
    reason: Reason | None
    """Why it was refused or served without the picker."""
    request_id: str = ""
    """Envoy's `x-request-id`."""
    trace_id: str = ""
    """Trace id of the `traceparent`, 32 hexadecimal digits."""
    model: str = ""
    """Model, if a header of the request or of the picker's answer names it."""
    picker: str = ""
    """Address of the picker that was asked last."""
    said: str = ""
    """Destination that the picker named, as far as it is made of endpoints."""
    picked: str = ""
    """First destination endpoint."""
    served: str = ""
    """Served endpoint; empty if none served."""
    endpoint_failure: Reason | None = None
    """Why Envoy answered instead of the endpoint."""
    passthrough: Reason | None = None
    """Why the response, or the rest of it, continued without the picker."""
    eviction: Eviction | None = None
    hint: str = ""
    """Annotation of the pool that sets the bound or deadline that was exceeded."""
    retries: int = 0
    """How often the picker was asked again."""
    passed_over: int = 0
    """Destination endpoints that Envoy could not connect to."""
    pick_seconds: float | None = None
    """From the end of the request to its pick. None if there was none."""
    seconds: float = 0.0
    """From the request to the end of its exchange."""
    request_bytes: int = 0
    """Bytes of the body that Envoy sent."""
    response_bytes: int = 0
    """The same of the response."""

    @property
    def failed(self) -> bool:
        """Whether an operator would look at it: not served by the endpoint that the picker named."""
        return failed(self.outcome, self.reason, self.endpoint_failure)


_FAILED = frozenset((Outcome.REFUSED, Outcome.FAILED_OPEN, Outcome.EVICTED))


def failed(outcome: Outcome, reason: Reason | None, endpoint_failure: Reason | None) -> bool:
    """Whether a request with this result counts as failed in the records."""
    return reason is not None or endpoint_failure is not None or outcome in _FAILED


def as_json(decision: Decision) -> dict[str, Any]:
    """The fields that are not empty."""
    return {
        key: value
        for key, value in decision._asdict().items()
        if value is not None and value != "" and value != 0
    } | {"failed": decision.failed}


class Traffic:
    """Requests of one endpoint. Only grows."""

    __slots__ = ("failed", "picked", "served", "unreachable")

    def __init__(self) -> None:
        self.picked = 0
        """Requests whose first destination it was."""
        self.served = 0
        """Requests that it answered."""
        self.failed = 0
        """Requests that Envoy answered instead."""
        self.unreachable = 0
        """Requests for which Envoy could not connect to it."""

    def add(self, other: "Traffic") -> None:
        """Add another process's numbers, or those of another time."""
        self.picked += other.picked
        self.served += other.served
        self.failed += other.failed
        self.unreachable += other.unreachable


class News(NamedTuple):
    """What one process has recorded since it was asked before."""

    decisions: list[Decision]
    """Oldest first."""
    missed: int
    """Failures that were not recorded, because there were too many."""
    traffic: dict[str, dict[str, Traffic]]
    """By pool, and then by endpoint: the requests of this time."""
    pickers: dict[str, dict[str, AddressNote]]
    """By pool, and then by address of its picker."""


MAX_GATHERED = 2_000
"""Records that wait for their reader; it comes about once a second."""


class Gathered:
    """The news of several processes, until they are taken."""

    def __init__(self) -> None:
        self._decisions: list[Decision] = []
        self._missed = 0
        self._traffic: dict[str, dict[str, Traffic]] = {}
        self._pickers: dict[str, dict[str, AddressNote]] = {}

    def add(self, news: News) -> None:
        """Add the news of one process. Failures that find no room count as missed."""
        room = MAX_GATHERED - len(self._decisions)
        self._decisions += news.decisions[:room]
        self._missed += news.missed + sum(decision.failed for decision in news.decisions[room:])
        for pool, endpoints in news.traffic.items():
            mine = self._traffic.setdefault(pool, {})
            for key, traffic in endpoints.items():
                mine.setdefault(key, Traffic()).add(traffic)
        for pool, notes in news.pickers.items():
            known = self._pickers.setdefault(pool, {})
            for address, note in notes.items():
                before = known.get(address, note)
                known[address] = note if note.error_at >= before.error_at else before

    def take(self) -> News:
        """Everything since the last call."""
        news = News(self._decisions, self._missed, self._traffic, self._pickers)
        self._decisions, self._missed, self._traffic, self._pickers = [], 0, {}, {}
        return news
