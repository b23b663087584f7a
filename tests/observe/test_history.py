"""Fifteen minutes of a few numbers."""

import math

from hypothesis import given
from hypothesis import strategies as st

from epp_client.metrics.counters import PoolCounters
from epp_client.observe.history import ALL, IDLE, POINTS, History, Point, point
from epp_client.observe.interval import NOTHING, QUIET, Reading, between
from epp_client.relay.outcome import Outcome

BUSY = Point(2, 0, 0, 0, 1, 0.001, 0.002, 0.5, 1.0)


def test_a_point_has_rates_and_latencies() -> None:
    counters = PoolCounters()
    for outcome in (Outcome.STEERED, Outcome.LOCAL_PICK, Outcome.FAILED_OPEN, Outcome.CANCELLED):
        counters.outcome(outcome)
    counters.picked(0.004)
    found = point(between(NOTHING, Reading.of(counters)), 2.0, in_flight=3)
    assert found[:5] == (1.0, 0.5, 0.0, 0.5, 3)
    assert found.pick_p50 == found.pick_p50
    assert math.isnan(found.exchange_p99)


def test_nothing_happened_is_no_latency() -> None:
    found = point(QUIET, 6.0, 0)
    assert found[:5] == IDLE[:5]
    assert all(math.isnan(value) for value in found[5:])


def test_a_pool_that_appears_was_idle_before() -> None:
    history = History()
    history.add(1.0, {ALL: BUSY})
    history.add(7.0, {ALL: BUSY, "default/llama": BUSY})
    found = history.as_json("default/llama")
    assert found["at"] == [1.0, 7.0]
    assert found["steered"] == [0, 2]
    assert found["pick_p50"] == [None, 0.001]
    assert history.as_json("default/llama", last=1)["steered"] == [2]


def test_a_pool_without_requests_costs_nothing_and_reads_as_idle() -> None:
    history = History()
    history.add(1.0, {"default/llama": IDLE})
    assert not history._series
    found = history.as_json("default/llama")
    assert (found["at"], found["steered"], found["exchange_p99"]) == ([1.0], [0], [None])
    assert len({len(values) for values in found.values()}) == 1


def test_a_deleted_pool_is_forgotten() -> None:
    history = History()
    history.add(1.0, {"default/llama": BUSY})
    history.forget(["default/llama", "default/other"])
    assert history.as_json("default/llama")["steered"] == [0]


@given(st.lists(st.sets(st.sampled_from("abc")), max_size=3 * POINTS))
def test_it_is_bounded_and_every_series_has_all_points(busy: list[set[str]]) -> None:
    history = History()
    for number, keys in enumerate(busy):
        history.add(float(number), {ALL: BUSY, **dict.fromkeys(keys, BUSY)})
    kept = busy[-POINTS:]
    assert history.times == [float(n) for n in range(len(busy))][-POINTS:]
    for key in "abc":
        steered = history.as_json(key)["steered"]
        assert steered == [2 if key in keys else 0 for keys in kept]
        assert (key in history._series) == any(key in keys for keys in kept)
