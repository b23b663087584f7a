"""Who lately took no connection, and for how long that is remembered."""

from hypothesis import given
from hypothesis import strategies as st

from epp_client.picker.unreachable import MEMORY, Unreachable


def test_it_is_remembered_for_a_while_and_each_time_anew() -> None:
    unreachable = Unreachable()
    assert not unreachable.now(0.0)
    unreachable.refused(["a", "b"], 100.0)
    unreachable.refused(["a"], 105.0)
    assert set(unreachable.now(100.0 + MEMORY - 0.1)) == {"a", "b"}
    assert set(unreachable.now(100.0 + MEMORY)) == {"a"}
    assert not unreachable.now(105.0 + MEMORY)


def test_who_serves_is_reachable() -> None:
    unreachable = Unreachable()
    unreachable.served("a")
    unreachable.refused(["a", "b"], 0.0)
    unreachable.served("a")
    assert set(unreachable.now(0.0)) == {"b"}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.0, 4.0))))
def test_nothing_is_kept_longer_than_it_is_remembered(events: list[tuple[str, float]]) -> None:
    unreachable, now, latest = Unreachable(), 0.0, dict[str, float]()
    for key, passed in events:
        now += passed
        unreachable.refused([key], now)
        latest[key] = now
        assert set(unreachable.now(now)) == {k for k, at in latest.items() if at + MEMORY > now}
