"""The last decisions, numbered, failures apart from the others. Pure."""

from collections import deque
from typing import Any, NamedTuple

from epp_client.metrics.decisions import Decision, as_json

KEPT = 200
"""Records kept of each kind."""


class Record(NamedTuple):
    """A decision with its number."""

    number: int
    """Grows by one from record to record."""
    decision: Decision


class Records:
    """The last `KEPT` failures, and the last `KEPT` others: many good requests must not push a failure
    out."""

    def __init__(self) -> None:
        self._failed: deque[Record] = deque(maxlen=KEPT)
        self._others: deque[Record] = deque(maxlen=KEPT)
        self.last = 0
        """Number of the newest record."""
        self.missed = 0
        """Failures that were not recorded, because there were too many."""

    def add(self, decisions: list[Decision], missed: int) -> None:
        """Add decisions, oldest first."""
        self.missed += missed
        for decision in sorted(decisions, key=lambda one: one.at):
            self.last += 1
            kept = self._failed if decision.failed else self._others
            kept.append(Record(self.last, decision))

    def since(self, number: int = 0) -> list[Record]:
        """The records after `number` that are still kept, oldest first."""
        both = [record for kept in (self._failed, self._others) for record in kept]
        return sorted(record for record in both if record.number > number)

    def matching(self, wanted: "Filter", last: int) -> list[Record]:
        """The last records that match, `last` of them at most, oldest first."""
        found = [record for record in self.since() if wanted.wants(record.decision)]
        return found[len(found) - min(last, len(found)) :]


class Filter(NamedTuple):
    """Which records somebody wants to see. An empty field matches all."""

    pool: str = ""
    reason: str = ""
    endpoint: str = ""
    request_id: str = ""
    failed: bool = False
    """Only failures."""

    def wants(self, decision: Decision) -> bool:
        """Whether a decision matches every field."""
        reasons = (decision.reason, decision.endpoint_failure, decision.passthrough)
        return (
            (not self.failed or decision.failed)
            and (not self.pool or decision.pool == self.pool)
            and (not self.reason or self.reason in reasons)
            and (not self.endpoint or self.endpoint in (decision.picked, decision.served))
            and (not self.request_id or decision.request_id == self.request_id)
        )


def record_json(record: Record) -> dict[str, Any]:
    """One record for the page and `epp-client tap`."""
    return {"number": record.number, **as_json(record.decision)}
