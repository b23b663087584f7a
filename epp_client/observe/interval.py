"""Intervals: what happened between two readings of the counters. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from epp_client.errors import Reason
from epp_client.metrics.counters import PICK_BUCKETS, PoolCounters
from epp_client.relay.outcome import Outcome

Counts = dict[Reason, int]


class Reading(NamedTuple):
    """The counters of one pool at one moment, as values that do not change."""

    outcomes: tuple[int, ...]
    """By `Outcome`, in its order."""
    failed_open: Counts
    refused: Counts
    endpoint_failures: Counts
    picks: tuple[int, ...]
    exchanges: tuple[int, ...]

    @classmethod
    def of(cls, counters: PoolCounters) -> "Reading":
        """The current numbers."""
        return cls(
            tuple(counters.outcomes.get(outcome, 0) for outcome in Outcome),
            dict(counters.failed_open),
            dict(counters.refused),
            dict(counters.endpoint_failures),
            tuple(counters.picks),
            tuple(counters.exchanges),
        )


NOTHING = Reading.of(PoolCounters())


class Interval(NamedTuple):
    """The requests of one pool, or of all, that ended in some seconds."""

    outcomes: tuple[int, ...]
    failed_open: Counts
    refused: Counts
    endpoint_failures: Counts
    picks: tuple[int, ...]
    exchanges: tuple[int, ...]

    @property
    def requests(self) -> int:
        """All requests."""
        return sum(self.outcomes)

    def outcome(self, outcome: Outcome) -> int:
        """Requests with this outcome."""
        return self.outcomes[_INDEX[outcome]]


_INDEX = {outcome: index for index, outcome in enumerate(Outcome)}
QUIET = Interval(*NOTHING)
"""An interval without requests."""


def between(before: Reading, after: Reading) -> Interval:
    """What happened between two readings. Counters of a process that died may be smaller afterwards: such
    a difference counts as nothing."""
    return Interval(
        _grown(before.outcomes, after.outcomes),
        _more(before.failed_open, after.failed_open),
        _more(before.refused, after.refused),
        _more(before.endpoint_failures, after.endpoint_failures),
        _grown(before.picks, after.picks),
        _grown(before.exchanges, after.exchanges),
    )


def total(intervals: Iterable[Interval]) -> Interval:
    """Several intervals, or several pools, together."""
    found = list(intervals)
    if len(found) == 1:
        return found[0]
    if not found:
        return QUIET
    return Interval(
        _sums([one.outcomes for one in found]),
        _union([one.failed_open for one in found]),
        _union([one.refused for one in found]),
        _union([one.endpoint_failures for one in found]),
        _sums([one.picks for one in found]),
        _sums([one.exchanges for one in found]),
    )


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Seconds below which `share` of the values in the buckets lie, straight lines within buckets. None
    without values. Above the last bound it is the last bound."""
    wanted = sum(counts) * share
    if not wanted:
        return None
    below = 0
    for index, count in enumerate(counts):
        if count and below + count >= wanted:
            if index == len(PICK_BUCKETS):
                break
            low = PICK_BUCKETS[index - 1] if index else 0.0
            return low + (PICK_BUCKETS[index] - low) * (wanted - below) / count
        below += count
    return float(PICK_BUCKETS[-1])


def _grown(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
    return tuple([max(0, new - old) for old, new in zip(before, after, strict=True)])


def _more(before: Mapping[Reason, int], after: Mapping[Reason, int]) -> Counts:
    return {key: grown for key, count in after.items() if (grown := count - before.get(key, 0)) > 0}


def _sums(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


def _union(rows: Iterable[Mapping[Reason, int]]) -> Counts:
    counts: Counts = {}
    for row in rows:
        for key, count in row.items():
            counts[key] = counts.get(key, 0) + count
    return counts
