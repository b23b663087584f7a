"""What happened between two readings of the counters."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_client.errors import Reason
from epp_client.metrics.counters import PICK_BUCKETS, PoolCounters
from epp_client.observe.interval import (
    NOTHING,
    QUIET,
    Interval,
    Reading,
    between,
    quantile,
    total,
)
from epp_client.relay.outcome import Outcome


def counted(*outcomes: Outcome) -> PoolCounters:
    counters = PoolCounters()
    for outcome in outcomes:
        counters.outcome(outcome)
    return counters


def test_only_what_is_new_counts() -> None:
    counters = counted(Outcome.STEERED, Outcome.REFUSED)
    counters.refuse(Reason.PICKER_TIMEOUT)
    counters.picked(0.003)
    before = Reading.of(counters)
    counters.outcome(Outcome.STEERED)
    counters.refuse(Reason.NO_READY_ENDPOINT)
    counters.endpoint_fail(Reason.ENDPOINT_TIMEOUT)
    counters.exchanges[3] += 1
    found = between(before, Reading.of(counters))
    assert (found.requests, found.outcome(Outcome.STEERED)) == (1, 1)
    assert found.refused == {Reason.NO_READY_ENDPOINT: 1}
    assert found.endpoint_failures == {Reason.ENDPOINT_TIMEOUT: 1}
    assert (sum(found.picks), sum(found.exchanges)) == (0, 1)


def test_a_reading_does_not_change_with_its_counters() -> None:
    counters = counted(Outcome.STEERED)
    reading = Reading.of(counters)
    counters.outcome(Outcome.STEERED)
    counters.refuse(Reason.OVERLOADED)
    assert between(reading, reading) == QUIET


def test_a_process_that_died_takes_nothing_away() -> None:
    more, less = counted(Outcome.STEERED, Outcome.STEERED), counted(Outcome.STEERED)
    more.refuse(Reason.OVERLOADED)
    assert between(Reading.of(more), Reading.of(less)) == QUIET


def test_several_intervals_are_added() -> None:
    one = between(NOTHING, Reading.of(counted(Outcome.STEERED)))
    refused = counted(Outcome.REFUSED)
    refused.refuse(Reason.OVERLOADED)
    other = between(NOTHING, Reading.of(refused))
    both = total([one, other, other])
    assert (both.requests, both.outcome(Outcome.REFUSED)) == (3, 2)
    assert both.refused == {Reason.OVERLOADED: 2}
    assert total([]) == QUIET
    assert total([one]) is one


def bucketed(*seconds: float) -> tuple[int, ...]:
    counters = PoolCounters()
    for one in seconds:
        counters.picked(one)
    return tuple(counters.picks)


def test_a_quantile_is_in_the_bucket_of_its_value() -> None:
    assert quantile(bucketed(), 0.5) is None
    assert quantile(bucketed(0.004), 0.5) == pytest.approx(0.00375)
    assert quantile(bucketed(*[0.0001] * 99, 4.0), 0.99) == pytest.approx(0.0005)
    found = quantile(bucketed(*[0.0001] * 9, 4.0), 0.99)
    assert found is not None
    assert 2.5 < found <= 5
    assert quantile(bucketed(1_000.0), 0.5) == PICK_BUCKETS[-1]


@given(st.lists(st.integers(0, 50), min_size=19, max_size=19))
def test_quantiles_grow(counts: list[int]) -> None:
    found = [quantile(counts, share) for share in (0.01, 0.5, 0.9, 0.99, 1.0)]
    if not sum(counts):
        assert found == [None] * 5
        return
    values = [one for one in found if one is not None]
    assert len(values) == 5
    assert all(low <= high for low, high in pairwise(values))
    assert 0 <= values[0] <= values[-1] <= PICK_BUCKETS[-1]


def test_every_field_of_a_reading_has_an_interval() -> None:
    assert Reading._fields == Interval._fields
