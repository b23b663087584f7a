"""Departed endpoints stay with Envoy until relays have long stopped to pick them."""

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.xds.lingering import LINGER, Lingering

KEYS = [f"10.0.0.{number}:8000" for number in range(4)]


def table(*keys: str) -> EndpointTable:
    members = {key: Endpoint(key, key[:-5], 8000, key) for key in keys}
    return EndpointTable(MappingProxyType(members))


def keys(lingering: Lingering) -> set[str]:
    return {endpoint.key for endpoint in lingering.of("a")}


def test_who_leaves_lingers_and_then_goes() -> None:
    lingering = Lingering()
    lingering.changed("a", table(*KEYS), table(*KEYS[:2]), 10.0)
    assert keys(lingering) == set(KEYS[2:])
    assert lingering.next_change() == 10.0 + LINGER
    assert lingering.expire(10.0 + LINGER / 2) == set()
    assert lingering.expire(10.0 + LINGER) == {"a"}
    assert keys(lingering) == set()
    assert lingering.next_change() is None


def test_who_is_back_does_not_linger_and_a_pool_that_goes_leaves_nothing() -> None:
    lingering = Lingering()
    lingering.changed("a", table(*KEYS), table(), 0.0)
    lingering.changed("a", table(), table(KEYS[0]), 0.1)
    assert keys(lingering) == set(KEYS[1:])
    lingering.forget("a")
    assert lingering.next_change() is None


histories = st.lists(
    st.tuples(st.floats(0.01, 0.7), st.sets(st.sampled_from(KEYS))), min_size=2, max_size=12
)


@given(histories)
def test_envoy_has_what_was_a_member_within_the_last_moment_and_nothing_older(
    history: list[tuple[float, set[str]]],
) -> None:
    lingering, now, before = Lingering(), 0.0, table()
    last_seen: dict[str, float] = {}
    for pause, members in history:
        # until this change
        last_seen |= dict.fromkeys(before.by_key, now + pause)
        now += pause
        lingering.expire(now)
        after = table(*members)
        lingering.changed("a", before, after, now)
        before = after
        shown = keys(lingering) | members
        assert shown == members | {k for k, at in last_seen.items() if now < at + LINGER}
