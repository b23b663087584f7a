"""When a pool's endpoints may be pushed again; no clock but the numbers here."""

import pytest

from epp_client.envoy.pb.discovery_pb2 import DiscoveryRequest
from epp_client.xds.cooldowns import MAX_COOLDOWN, MAX_WANTED_COOLDOWN, Cooldowns
from epp_client.xds.state import CDS, EDS, EnvoyState, Resource


def _pushed(took: float, **sizes: int) -> Cooldowns:
    """Cooldowns of an Envoy that has taken so long, until second 10, over resources of these sizes."""
    cooldowns = Cooldowns()
    cooldowns.pushed(sizes, 10.0 - took)
    cooldowns.acknowledged(list(sizes), 10.0)
    return cooldowns


def test_a_pool_at_rest_is_pushed_at_once() -> None:
    assert Cooldowns().cooling(0.0) == set()


@pytest.mark.parametrize(
    ("took", "rest", "wanted"),
    [
        (0.0, 0.0, 0.0),
        # 1 000 endpoints
        (0.005, 0.05, 0.05),
        (0.01, 0.2, MAX_WANTED_COOLDOWN),
        # 10 000
        (0.045, 4.05, MAX_WANTED_COOLDOWN),
        (0.06, MAX_COOLDOWN, MAX_WANTED_COOLDOWN),
        (30.0, MAX_COOLDOWN, MAX_WANTED_COOLDOWN),
    ],
)
def test_a_long_push_is_followed_by_a_much_longer_rest_unless_a_pick_waits(
    took: float, rest: float, wanted: float
) -> None:
    cooldowns = _pushed(took, a=1)
    assert cooldowns.ends("a") == pytest.approx(10 + rest)
    cooldowns.want("a")
    assert cooldowns.ends("a") == pytest.approx(10 + wanted)


def _rest_after(*took: float) -> float:
    """Of a pool that Envoy took so long over, one push after the other."""
    cooldowns = Cooldowns()
    for number, seconds in enumerate(took):
        cooldowns.pushed({"a": 1}, 10.0 * number - seconds)
        cooldowns.acknowledged(["a"], 10.0 * number)
    return cooldowns.ends("a") - 10.0 * (len(took) - 1)


@pytest.mark.parametrize(
    ("took", "counts"),
    [
        # a busy moment
        ((0.005, 0.04), 0.005),
        ((0.005, 0.04, 0.005), 0.005),
        ((0.005, 0.04, 0.03), 0.005),
        # the pool has grown, or the machine stays busy
        ((0.005, 0.04, 0.03, 0.04), 0.03),
        # the first push, with the cluster
        ((0.04, 0.005), 0.005),
    ],
)
def test_a_push_that_took_longer_than_its_neighbours_is_not_held_against_the_pool(
    took: tuple[float, ...], counts: float
) -> None:
    assert _rest_after(*took) == pytest.approx(_rest_after(counts))


def test_a_small_pool_does_not_rest_for_the_large_one_in_the_same_push() -> None:
    cooldowns = _pushed(0.05, large=990, small=10)
    assert cooldowns.cooling(10.1) == {"large"}
    assert cooldowns.cooling(10.0 + MAX_COOLDOWN) == set()


def test_a_pick_that_waits_shortens_the_rest_until_the_next_push() -> None:
    cooldowns = _pushed(0.1, a=1)
    cooldowns.want("a")
    assert cooldowns.ends("a") == 10.0 + MAX_WANTED_COOLDOWN
    cooldowns.pushed({"a": 1}, 10.2)
    cooldowns.acknowledged(["a"], 10.3)
    assert cooldowns.ends("a") == 10.3 + MAX_COOLDOWN


def test_a_pick_that_waits_while_a_push_is_under_way_shortens_the_rest_after_it() -> None:
    cooldowns = Cooldowns()
    cooldowns.pushed({"a": 1}, 9.0)
    cooldowns.want("a")
    cooldowns.acknowledged(["a"], 10.0)
    assert cooldowns.ends("a") == 10.0 + MAX_WANTED_COOLDOWN


def test_nothing_is_kept_of_a_pool_that_is_no_more() -> None:
    cooldowns = _pushed(0.1, a=1)
    cooldowns.want("a")
    cooldowns.forget("a")
    assert cooldowns.cooling(10.0) == set()
    assert cooldowns.ends("a") == 0.0


def _world(*names: str) -> dict[str, dict[str, Resource]]:
    return {
        CDS: {name: Resource(name.encode()) for name in names},
        EDS: {name: Resource(name.encode(), 7) for name in names},
    }


def _settled(*names: str) -> EnvoyState:
    """An Envoy that has the endpoints of all."""
    state = EnvoyState()
    state.receive(DiscoveryRequest(type_url=EDS, resource_names=names))
    [push] = state.responses(_world(*names))
    ack = DiscoveryRequest(type_url=EDS, resource_names=names, response_nonce=push.nonce)
    state.receive(ack)
    return state


def test_what_rests_is_left_out_and_sent_when_it_has_rested() -> None:
    state, world = _settled("a", "b"), _world("a", "b")
    state.changed(EDS, ["a", "b"])
    [push] = state.responses(world, {"a"})
    assert [resource.value for resource in push.resources] == [b"b"]
    assert state.held == {"a"}
    state.receive(
        DiscoveryRequest(type_url=EDS, resource_names=["a", "b"], response_nonce=push.nonce)
    )
    assert state.responses(world, {"a"}) == []
    [push] = state.responses(world)
    assert [resource.value for resource in push.resources] == [b"a"]
    assert not state.held


def test_endpoints_that_envoy_waits_for_with_a_changed_cluster_never_rest() -> None:
    state = _settled("a")
    state.receive(DiscoveryRequest(type_url=CDS))
    pushes = state.responses(_world("a"), {"a"})
    assert [push.type_url for push in pushes] == [CDS, EDS]


def test_endpoints_that_envoy_asks_for_anew_never_rest() -> None:
    state = _settled("a")
    state.receive(DiscoveryRequest(type_url=EDS, resource_names=["a"]))
    assert len(state.responses(_world("a"), {"a"})) == 1
