"""The automaton of one ADS stream, without sockets."""

from hypothesis import given
from hypothesis import strategies as st

from epp_client.envoy.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse, Status
from epp_client.xds.state import CDS, EDS, EnvoyState, Resource

WORLD = {CDS: {"a": Resource(b"cluster")}, EDS: {"a": Resource(b"hosts", 7)}}


def _subscribed() -> EnvoyState:
    state = EnvoyState()
    state.receive(DiscoveryRequest(type_url=EDS, resource_names=["a"]))
    return state


def test_an_envoy_that_has_not_subscribed_has_no_say_in_what_is_acknowledged() -> None:
    assert EnvoyState().acknowledged("a") is None
    assert _subscribed().acknowledged("a") == -1


def test_one_push_at_a_time_and_the_newest_after_the_acknowledgement() -> None:
    state = _subscribed()
    [push] = state.responses(WORLD)
    state.changed(EDS, ["a"])
    assert state.responses(WORLD) == []
    ack = DiscoveryRequest(type_url=EDS, resource_names=["a"], response_nonce=push.nonce)
    state.receive(ack)
    assert state.acknowledged("a") == 7
    [following] = state.responses(WORLD)
    assert following.nonce != push.nonce


def test_a_rejected_push_is_not_repeated_until_something_changes() -> None:
    state = _subscribed()
    [push] = state.responses(WORLD)
    nack = DiscoveryRequest(
        type_url=EDS,
        resource_names=["a"],
        response_nonce=push.nonce,
        error_detail=Status(message="no"),
    )
    state.receive(nack)
    assert (state.rejected, state.acknowledged("a")) == ("no", -1)
    assert state.responses(WORLD) == []
    state.changed(EDS, ["a"])
    assert len(state.responses(WORLD)) == 1


def test_a_changed_cluster_gets_its_endpoints_without_waiting_for_its_acknowledgement() -> None:
    # Envoy pauses CDS while a cluster warms: it acknowledges only after it has the endpoints.
    state = _subscribed()
    state.receive(DiscoveryRequest(type_url=CDS))
    for push in state.responses(WORLD):
        names = ["a"] if push.type_url == EDS else []
        state.receive(
            DiscoveryRequest(
                type_url=push.type_url, resource_names=names, response_nonce=push.nonce
            )
        )
    state.changed(CDS, ["a"])
    changed = {**WORLD, CDS: {"a": Resource(b"h2c cluster")}}
    assert [response.type_url for response in state.responses(changed)] == [CDS, EDS]


def _names(response: DiscoveryResponse) -> list[bytes]:
    return [resource.value for resource in response.resources]


def _world(**generations: int) -> dict[str, dict[str, Resource]]:
    hosts = {
        name: Resource(f"{name}{number}".encode(), number) for name, number in generations.items()
    }
    return {CDS: {name: Resource(name.encode()) for name in generations}, EDS: hosts}


def _ack(push: DiscoveryResponse, *names: str, error: str = "") -> DiscoveryRequest:
    answer = DiscoveryRequest(
        type_url=push.type_url, resource_names=names, response_nonce=push.nonce
    )
    if error:
        answer.error_detail.message = error
    return answer


def test_only_the_endpoints_of_changed_pools_are_pushed_and_acknowledged() -> None:
    state = EnvoyState()
    state.receive(DiscoveryRequest(type_url=EDS, resource_names=["a", "b"]))
    [push] = state.responses(_world(a=1, b=1))
    assert _names(push) == [b"a1", b"b1"]
    assert set(state.receive(_ack(push, "a", "b"))) == {"a", "b"}
    state.changed(EDS, ["b", "unasked"])
    [push] = state.responses(_world(a=1, b=2, unasked=1))
    assert _names(push) == [b"b2"]
    assert set(state.receive(_ack(push, "a", "b"))) == {"b"}
    assert (state.acknowledged("a"), state.acknowledged("b")) == (1, 2)


def test_a_pool_that_envoy_begins_to_follow_is_pushed_alone() -> None:
    state = EnvoyState()
    state.receive(DiscoveryRequest(type_url=EDS, resource_names=["a"]))
    [push] = state.responses(_world(a=1, b=1))
    state.receive(_ack(push, "a", "b"))
    [push] = state.responses(_world(a=1, b=1))
    assert _names(push) == [b"b1"]
    assert set(state.receive(_ack(push, "b"))) == {"a", "b"}, "a is not followed any more"
    assert (state.acknowledged("a"), state.acknowledged("b")) == (None, 1)
    assert state.follows == {"b"}


def test_what_was_rejected_together_goes_again_with_the_next_change() -> None:
    state = EnvoyState()
    state.receive(DiscoveryRequest(type_url=EDS, resource_names=["a", "b"]))
    [push] = state.responses(_world(a=1, b=1))
    state.receive(_ack(push, "a", "b", error="b is no good"))
    assert state.responses(_world(a=1, b=1)) == []
    state.changed(EDS, ["b"])
    [push] = state.responses(_world(a=1, b=2))
    assert _names(push) == [b"a1", b"b2"]


def test_a_pool_that_comes_back_counts_its_generations_anew() -> None:
    state = EnvoyState()
    state.receive(DiscoveryRequest(type_url=EDS, resource_names=["a"]))
    [push] = state.responses(_world(a=7))
    state.receive(_ack(push, "a"))
    state.removed("a")
    assert state.acknowledged("a") == -1
    state.changed(EDS, ["a"])
    [push] = state.responses(_world(a=1))
    state.removed("a")
    state.receive(_ack(push, "a"))
    assert state.acknowledged("a") == -1, "that was the one before it"


@given(st.data())
def test_envoy_ends_with_the_newest_of_what_it_follows(data: st.DataObject) -> None:
    """Whatever changes, and however late Envoy answers or what it asks for in between."""
    state, follows, newest = EnvoyState(), ["a"], {"a": 1, "b": 1, "c": 1}
    state.receive(DiscoveryRequest(type_url=EDS, resource_names=follows))
    pushed: list[DiscoveryResponse] = []

    def turn() -> None:
        pushed.extend(state.responses(_world(**newest)))
        assert len(pushed) <= 1

    def answer(names: list[str]) -> None:
        while pushed:
            push = pushed.pop()
            state.receive(_ack(push, *names))

    for _ in range(data.draw(st.integers(0, 12))):
        match data.draw(st.sampled_from(["change", "follow", "answer"])):
            case "change":
                name = data.draw(st.sampled_from("abc"))
                newest[name] += 1
                state.changed(EDS, [name])
            case "follow":
                follows = data.draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))
                nonce = state._types[EDS].nonce
                state.receive(
                    DiscoveryRequest(type_url=EDS, resource_names=follows, response_nonce=nonce)
                )
                if nonce:
                    # that was its answer as well
                    pushed.clear()
            case "answer":
                answer(follows)
        turn()
    for _ in range(3):
        answer(follows)
        turn()
    assert {name: state.acknowledged(name) for name in follows} == {
        name: newest[name] for name in follows
    }
