"""The quiet profile's plan: few, long, and all of them within the run."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.lanes import CROSSES, KINDS, LONGEST, ask_for, lane


@given(st.integers(), st.floats(60.0, 3600.0))
def test_every_lane_has_a_long_answer_however_short_the_run(seed: int, seconds: float) -> None:
    longs = list(lane(random.Random(seed), seconds))
    assert longs
    ends = 0.0
    for long in longs:
        assert CROSSES <= long.length <= LONGEST
        # one at a time
        assert ends < long.at
        ends = long.at + long.length
    assert ends <= seconds


def test_half_an_hour_has_every_kind_and_answers_of_many_minutes() -> None:
    dice = random.Random(1)
    longs = [long for _ in range(16) for long in lane(dice, 1800.0)]
    assert {long.kind for long in longs} == KINDS.keys()
    assert max(long.length for long in longs) > 500
    # few
    assert len(longs) < 16 * 20


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_takes_as_long_as_it_should(kind: str) -> None:
    dice = random.Random(1)
    longs = [long for _ in range(40) for long in lane(dice, 1800.0) if long.kind == kind]
    for long in longs:
        request = ask_for(long, 1, "open", dice)
        if kind == "late" and long.length > 540:
            # Envoy waits for a head for no more than 600 s
            assert 540 <= request.seconds < 541
        else:
            assert abs(request.seconds - long.length) < 2.1
        if kind == "silent":
            assert request.pause_ms / 1000 < 600
