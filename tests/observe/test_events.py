"""What changed between two looks, in sentences."""

from dataclasses import replace

import pytest

from epp_client.metrics.counters import Counters
from epp_client.observe.events import KEPT, MAX_AT_ONCE, Events, changes
from epp_client.observe.looks import Look
from epp_client.picker.health import Health
from epp_client.pool.problems import Problem, Severity
from tests.observe.made import LLAMA, PICKER, look, pool

BASE = look(pool(LLAMA))
CRASHED = Counters()
CRASHED.restarts = 1
BROKEN = Problem(Severity.ERROR, "no ports", "InferencePool default/x")


def changed(**fields: object) -> Look:
    return BASE._replace(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (look(), BASE, ("pool", LLAMA, "the pool is served, with 2 ready endpoints")),
        (BASE, look(), ("pool", LLAMA, "the pool is gone")),
        (BASE, changed(envoys=0), ("envoy", "", "0 Envoys are connected (were 1)")),
        (BASE, changed(nacks=2), ("envoy", "", "Envoy rejected 2 configurations")),
        (BASE, changed(workers=1), ("workers", "", "1 relay workers serve (were 2)")),
        (
            BASE,
            changed(counters=CRASHED),
            ("workers", "", "1 relay workers crashed and were restarted"),
        ),
        (BASE, changed(reasons={"pools": "gone"}), ("sidecar", "", "not ready: pools: gone")),
        (changed(reasons={"pools": "gone"}), BASE, ("sidecar", "", "ready")),
        (BASE, changed(problems=(BROKEN,)), ("sidecar", "", f"error in an object: {BROKEN}")),
        (changed(problems=(BROKEN,)), BASE, ("sidecar", "", f"mended: {BROKEN}")),
        (
            BASE,
            look(pool(LLAMA, ready=(1, 3), draining=(2,))),
            ("endpoints", LLAMA, "1 new (pod-3), 1 draining (pod-2); 2 ready"),
        ),
        (
            look(pool(LLAMA, ready=(1,), draining=(2,))),
            BASE,
            ("endpoints", LLAMA, "1 ready again (pod-2); 2 ready"),
        ),
        (
            look(pool(LLAMA, ready=range(1, 9))),
            look(pool(LLAMA, ready=())),
            ("endpoints", LLAMA, "8 gone (pod-1, pod-2, pod-3 and 5 more); 0 ready"),
        ),
        (
            BASE,
            look(pool(LLAMA), health={PICKER: Health.NOT_SERVING}),
            ("picker", LLAMA, f"picker {PICKER} is not serving (was serving)"),
        ),
    ],
)
def test_each_change_is_one_sentence(before: Look, now: Look, said: tuple[str, str, str]) -> None:
    assert [*changes(before, now)] == [said]


def test_nothing_new_is_no_event() -> None:
    assert [*changes(BASE, BASE)] == []
    # A picker that is tried for the first time and works is no news.
    assert [*changes(look(pool(LLAMA), health={PICKER: Health.UNTRIED}), BASE)] == []


def test_a_changed_pool_names_its_fields() -> None:
    before = pool(LLAMA)
    after = replace(before, pool=replace(before.pool, target_ports=(9000,), generation=2))
    [(kind, subject, text)] = changes(look(before), look(after))
    assert (kind, subject) == ("pool", LLAMA)
    assert "target_ports" in text


def test_a_picker_that_moves_or_is_lost() -> None:
    moved = [*changes(BASE, look(pool(LLAMA, pickers=("10.9.0.7:9002",))))]
    assert ("picker", LLAMA, "the picker's addresses are now 10.9.0.7:9002") in moved
    lost = [*changes(BASE, look(pool(LLAMA, pickers=(), problem="no such Service")))]
    assert ("picker", LLAMA, "the picker's addresses are now no such Service") in lost


def test_events_are_numbered_bounded_and_told_once() -> None:
    events = Events()
    events.looked(None, BASE)
    first = events.since()
    assert [event.text for event in first] == ["the sidecar has started"]
    assert events.since(first[-1].number) == []
    for number in range(2 * KEPT):
        events.add(float(number), "pool", LLAMA, "x")
    kept = events.since()
    assert len(kept) == KEPT
    assert [event.number for event in kept] == [*range(KEPT + 2, 2 * KEPT + 2)]


def test_a_large_change_is_cut_and_counted() -> None:
    events = Events()
    many = [pool(f"default/p{number}") for number in range(3 * MAX_AT_ONCE)]
    events.looked(look(), look(*many))
    told = events.since()
    assert len(told) == MAX_AT_ONCE + 1
    assert told[-1].text == f"and {2 * MAX_AT_ONCE} more changes at the same time"
