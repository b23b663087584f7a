"""Many timers of few durations: each armed one rings once, at its time, in whatever order they are armed,
disarmed and left alone for a while."""

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.data_plane.deadlines import Deadline, Deadlines
from epp_client.relay.actions import Timer

DURATIONS = (1.0, 2.5, 10.0)
TIMERS = (Timer.PICK, Timer.RESPONSE)


class Clock:
    """The part of an event loop that `Deadlines` uses, with a time of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self._calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., None], *args: Any) -> None:
        self._number += 1
        self._calls.append((when, self._number, callback, args))

    def advance(self, seconds: float) -> None:
        """Let time pass, and make the calls that are due."""
        end = self.now + seconds
        while due := [call for call in self._calls if call[0] <= end]:
            call = min(due)
            self._calls.remove(call)
            self.now = max(self.now, call[0])
            call[2](*call[3])
        self.now = end


class Owner:
    """Notes when a timer rings."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.rung: list[tuple[Timer, float]] = []

    def rang(self, timer: Timer) -> None:
        self.rung.append((timer, self._clock.now))


def deadlines(clock: Clock) -> Deadlines:
    """Timers on `clock`."""
    loop: Any = clock
    assert not isinstance(loop, asyncio.AbstractEventLoop)
    return Deadlines(loop)


def test_a_duration_that_nobody_uses_for_a_while_rings_again() -> None:
    clock = Clock()
    timers, first, second = deadlines(clock), Owner(clock), Owner(clock)
    timers.arm(first, Timer.PICK, 1.0)
    clock.advance(5.0)
    timers.arm(second, Timer.PICK, 1.0)
    clock.advance(5.0)
    assert first.rung == [(Timer.PICK, 101.0)]
    assert second.rung == [(Timer.PICK, 106.0)]


def test_a_disarmed_timer_frees_its_owner_and_does_not_ring() -> None:
    clock = Clock()
    timers, kept = deadlines(clock), Owner(clock)
    for _ in range(1000):
        timers.arm(Owner(clock), Timer.PICK, 1.0).owner = None
    timers.arm(kept, Timer.PICK, 1.0)
    clock.advance(1.0)
    assert kept.rung == [(Timer.PICK, 101.0)]


armed = st.tuples(st.just("arm"), st.sampled_from(TIMERS), st.sampled_from(DURATIONS))
disarmed = st.tuples(st.just("disarm"), st.integers(0, 300), st.none())
passed = st.tuples(st.just("pass"), st.sampled_from((0.0, 0.3, 1.0, 12.0)), st.none())


@given(st.lists(st.one_of(armed, armed, disarmed, passed), max_size=300))
@settings(max_examples=60, deadline=None)
def test_each_armed_timer_rings_once_at_its_time(steps: list[tuple[str, Any, Any]]) -> None:
    clock = Clock()
    timers = deadlines(clock)
    all_of_them: list[tuple[Deadline, Owner, float]] = []
    off: set[int] = set()
    for what, first, second in steps:
        if what == "arm":
            owner = Owner(clock)
            all_of_them.append((timers.arm(owner, first, second), owner, clock.now + second))
        elif what == "disarm" and first < len(all_of_them):
            deadline, owner, _ = all_of_them[first]
            if not owner.rung:
                off.add(first)
            deadline.owner = None
        elif what == "pass":
            clock.advance(first)
    clock.advance(20.0)
    for number, (deadline, owner, due) in enumerate(all_of_them):
        expected = [] if number in off else [(deadline.timer, due)]
        assert owner.rung == expected
