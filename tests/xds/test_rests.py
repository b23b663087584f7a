"""When a pool's endpoints may be pushed again; no clock but the numbers here."""

import pytest

from epp_client.envoy.pb.discovery_pb2 import DiscoveryRequest
from epp_client.xds.rests import LONGEST_REST, LONGEST_WANTED_REST, Rests
from epp_client.xds.state import CDS, EDS, EnvoyState, Resource


def _pushed(took: float, **sizes: int) -> Rests:
    """Rests of an Envoy that has taken so long, until second 10, over resources of these sizes."""
    rests = Rests()
    rests.pushed(sizes, 10.0 - took)
    rests.acknowledged(list(sizes), 10.0)
    return rests


def test_a_pool_at_rest_is_pushed_at_once() -> None:
    assert Rests().resting(0.0) == set()


@pytest.mark.parametrize(
    ("took", "rest", "wanted"),
    [
        (0.0, 0.0, 0.0),
        (0.005, 0.05, 0.05),  # 1 000 endpoints
        (0.01, 0.2, LONGEST_WANTED_REST),
        (0.045, 4.05, LONGEST_WANTED_REST),  # 10 000
        (0.06, LONGEST_REST, LONGEST_WANTED_REST),
        (30.0, LONGEST_REST, LONGEST_WANTED_REST),
    ],
)
def test_a_long_push_is_followed_by_a_much_longer_rest_unless_a_pick_waits(
    took: float, rest: float, wanted: float
) -> None:
    rests = _pushed(took, a=1)
    assert rests.over("a") == pytest.approx(10 + rest)
    rests.want("a")
    assert rests.over("a") == pytest.approx(10 + wanted)


def _rest_after(*took: float) -> float:
    """Of a pool that Envoy took so long over, one push after the other."""
    rests = Rests()
    for number, seconds in enumerate(took):
        rests.pushed({"a": 1}, 10.0 * number - seconds)
        rests.acknowledged(["a"], 10.0 * number)
    return rests.over("a") - 10.0 * (len(took) - 1)


@pytest.mark.parametrize(
    ("took", "counts"),
    [
        ((0.005, 0.04), 0.005),  # a busy moment
        ((0.005, 0.04, 0.005), 0.005),
        ((0.005, 0.04, 0.03), 0.005),
        ((0.005, 0.04, 0.03, 0.04), 0.03),  # the pool has grown, or the machine stays busy
        ((0.04, 0.005), 0.005),  # the first push, with the cluster
    ],
)
def test_a_push_that_took_longer_than_its_neighbours_is_not_held_against_the_pool(
    took: tuple[float, ...], counts: float
) -> None:
    assert _rest_after(*took) == pytest.approx(_rest_after(counts))


def test_a_small_pool_does_not_rest_for_the_large_one_in_the_same_push() -> None:
    rests = _pushed(0.05, large=990, small=10)
    assert rests.resting(10.1) == {"large"}
    assert rests.resting(10.0 + LONGEST_REST) == set()


def test_a_pick_that_waits_shortens_the_rest_until_the_next_push() -> None:
    rests = _pushed(0.1, a=1)
    rests.want("a")
    assert rests.over("a") == 10.0 + LONGEST_WANTED_REST
    rests.pushed({"a": 1}, 10.2)
    rests.acknowledged(["a"], 10.3)
    assert rests.over("a") == 10.3 + LONGEST_REST


def test_a_pick_that_waits_while_a_push_is_under_way_shortens_the_rest_after_it() -> None:
    rests = Rests()
    rests.pushed({"a": 1}, 9.0)
    rests.want("a")
    rests.acknowledged(["a"], 10.0)
    assert rests.over("a") == 10.0 + LONGEST_WANTED_REST


def test_nothing_is_kept_of_a_pool_that_is_no_more() -> None:
    rests = _pushed(0.1, a=1)
    rests.want("a")
    rests.forget("a")
    assert rests.resting(10.0) == set()
    assert rests.over("a") == 0.0


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
