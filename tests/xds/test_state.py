"""The automaton of one ADS stream, without sockets."""

from epp_client.xds.pb.discovery_pb2 import DiscoveryRequest, Status
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
    state.changed(EDS)
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
    state.changed(EDS)
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
    state.changed(CDS)
    changed = {**WORLD, CDS: {"a": Resource(b"h2c cluster")}}
    assert [response.type_url for response in state.responses(changed)] == [CDS, EDS]
