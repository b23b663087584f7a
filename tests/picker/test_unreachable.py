"""Who lately took no connection, and for how long that is remembered."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from epp_client.picker.unreachable import MEMORY, Unreachable


def test_it_is_remembered_for_a_while_and_each_time_anew() -> None:
    unreachable = Unreachable()
    assert not unreachable.now(0.0)
    unreachable.refused(["a"], 100.0)
    unreachable.refused(["b"], 103.0)
    unreachable.refused(["a"], 105.0)
    assert set(unreachable.now(102.0 + MEMORY)) == {"a", "b"}
    assert set(unreachable.now(103.0 + MEMORY)) == {"a"}
    assert not unreachable.now(105.0 + MEMORY)


def test_those_that_were_refused_together_come_back_one_by_one() -> None:
    unreachable = Unreachable()
    keys = [f"10.0.0.{number}:8000" for number in range(40)]
    unreachable.refused(keys, 0.0)
    left = [len(unreachable.now(MEMORY + tenth / 10)) for tenth in range(101)]
    assert (left[0], left[-1]) == (39, 0)
    assert max(before - after for before, after in pairwise(left)) <= 1


def test_who_serves_is_reachable() -> None:
    unreachable = Unreachable()
    unreachable.served("a")
    unreachable.refused(["a", "b"], 0.0)
    unreachable.served("a")
    assert set(unreachable.now(0.0)) == {"b"}


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.floats(0.0, 9.0))))
def test_nothing_is_forgotten_early_or_kept_for_long(events: list[tuple[set[str], float]]) -> None:
    unreachable, now, latest = Unreachable(), 0.0, dict[str, float]()
    for keys, passed in events:
        now += passed
        unreachable.refused(sorted(keys), now)
        latest |= dict.fromkeys(keys, now)
        found = set(unreachable.now(now))
        assert {key for key, at in latest.items() if at + MEMORY > now} <= found
        assert found <= {key for key, at in latest.items() if at + 2 * MEMORY > now}
