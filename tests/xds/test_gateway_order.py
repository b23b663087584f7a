"""The automaton of one ADS stream with listeners and routes: what Envoy has at any moment fits together."""

from hypothesis import given
from hypothesis import strategies as st

from epp_client.envoy.pb.discovery_pb2 import (
    Cluster,
    ClusterLoadAssignment,
    DiscoveryRequest,
    DiscoveryResponse,
)
from epp_client.xds.state import CDS, EDS, LDS, RDS, SDS, EnvoyState, Resource

ROUTES = "all"


class World:
    """One listener whose only route goes to one cluster."""

    def __init__(self) -> None:
        self.cluster = "a"
        self.others: set[str] = set()
        self.generation = 1
        self.protocols: dict[str, int] = {}

    def resources(self) -> dict[str, dict[str, Resource]]:
        names = sorted({self.cluster} | self.others)
        return {
            CDS: {name: self._cluster(name) for name in names},
            EDS: {name: Resource(_assignment(name), 1) for name in names},
            SDS: {},
            LDS: {"listener": Resource(b"listener", 1)},
            RDS: {ROUTES: Resource(self.cluster.encode(), self.generation)},
        }

    def _cluster(self, name: str) -> Resource:
        # the version stands for the protocol
        value = Cluster(name=name).SerializeToString() * (1 + self.protocols.get(name, 0))
        return Resource(value, self.protocols.get(name, 0))


def _assignment(name: str) -> bytes:
    return ClusterLoadAssignment(cluster_name=name).SerializeToString()


class Envoy:
    """As the real one: it acknowledges clusters when all of them have endpoints."""

    def __init__(self, state: EnvoyState) -> None:
        self.state = state
        self.said: list[DiscoveryRequest] = []
        self.clusters: dict[str, bytes] = {}
        self.warming: set[str] = set()
        self.route: str | None = None
        self.nonces = {EDS: "", RDS: ""}
        self._unacknowledged: DiscoveryResponse | None = None
        self.said += [DiscoveryRequest(type_url=CDS), DiscoveryRequest(type_url=LDS)]
        self.heard()

    def heard(self) -> None:
        """All that it has said arrives."""
        while self.said:
            self.state.receive(self.said.pop(0))

    def take(self, response: DiscoveryResponse) -> None:
        values = [resource.value for resource in response.resources]
        match response.type_url:
            case url if url == CDS:
                self._take_clusters(response, values)
            case url if url == EDS:
                self.nonces[EDS] = response.nonce
                self.warming -= {ClusterLoadAssignment.FromString(v).cluster_name for v in values}
                self._ask(EDS, *self.clusters)
                if self._unacknowledged is not None and not self.warming:
                    self._answer(self._unacknowledged)
                    self._unacknowledged = None
            case url if url == LDS:
                self._answer(response)
                self._ask(RDS, ROUTES)
            case url if url == RDS:
                self.nonces[RDS] = response.nonce
                [value] = values
                self.route = value.decode()
                self._ask(RDS, ROUTES)
        self.check()

    def _take_clusters(self, response: DiscoveryResponse, values: list[bytes]) -> None:
        new = {Cluster.FromString(value).name: value for value in values}
        changed = {name for name in new if self.clusters.get(name) != new[name]}
        added = new.keys() - self.clusters.keys()
        removed = self.clusters.keys() - new.keys()
        self.clusters = new
        # a changed cluster serves with its old settings until it is warm
        self.warming = (self.warming | changed) & new.keys()
        if added or removed:
            self._ask(EDS, *new)
        if self.warming:
            self._unacknowledged = response
        else:
            self._answer(response)

    def _ask(self, url: str, *names: str) -> None:
        self.said.append(
            DiscoveryRequest(type_url=url, resource_names=names, response_nonce=self.nonces[url])
        )

    def _answer(self, response: DiscoveryResponse) -> None:
        self.said.append(
            DiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        )

    def check(self) -> None:
        """No request can meet a cluster that is missing."""
        assert self.route is None or self.route in self.clusters


@given(st.data())
def test_no_route_names_a_missing_cluster_and_all_ends_with_the_newest(data: st.DataObject) -> None:
    state, world, sent = EnvoyState(), World(), list[DiscoveryResponse]()
    envoy = Envoy(state)
    if data.draw(st.booleans()):
        _finish(state, envoy, world)

    def turn() -> None:
        sent.extend(state.responses(world.resources()))
        urls = [response.type_url for response in sent]
        assert len(urls) == len(set(urls)), "two unread responses of a type"

    turn()
    for _ in range(data.draw(st.integers(0, 25))):
        match data.draw(st.sampled_from(["route", "pool", "protocol", "take", "hear"])):
            case "route":
                before = world.cluster
                world.cluster = data.draw(st.sampled_from("abc"))
                world.generation += 1
                touched = {before, world.cluster} - world.others
                state.changed(CDS, touched)
                state.changed(EDS, touched)
                state.changed(RDS, [ROUTES])
            case "pool":
                name = data.draw(st.sampled_from("xyz"))
                world.others ^= {name}
                state.changed(CDS, [name])
                state.changed(EDS, [name])
            case "protocol":
                name = data.draw(st.sampled_from("abcxyz"))
                world.protocols[name] = world.protocols.get(name, 0) + 1
                state.changed(CDS, [name])
            case "take" if sent:
                envoy.take(sent.pop(0))
            case "hear" if envoy.said:
                state.receive(envoy.said.pop(0))
        turn()
    while sent or envoy.said:
        if sent:
            envoy.take(sent.pop(0))
        envoy.heard()
        turn()
    resources = world.resources()
    assert envoy.route == world.cluster
    assert envoy.clusters.keys() == resources[CDS].keys(), "clusters that nobody needs are gone"
    assert envoy.warming == set()
    assert state.current
    for url in (CDS, LDS, RDS):
        assert state.has(url, resources[url])
        assert state.settled(url)


def _ack(response: DiscoveryResponse, *names: str, error: str = "") -> DiscoveryRequest:
    answer = DiscoveryRequest(
        type_url=response.type_url, resource_names=names, response_nonce=response.nonce
    )
    if error:
        answer.error_detail.message = error
    return answer


def test_an_envoy_that_asks_for_no_listeners_is_sent_none() -> None:
    state, world = EnvoyState(), World()
    state.receive(DiscoveryRequest(type_url=CDS))
    assert [response.type_url for response in state.responses(world.resources())] == [CDS]
    assert not state.follows_type(LDS)
    assert state.settled(LDS)


def _finish(state: EnvoyState, envoy: Envoy, world: World) -> None:
    while responses := state.responses(world.resources()):
        for response in responses:
            envoy.take(response)
            envoy.heard()


def _told() -> tuple[EnvoyState, Envoy, World]:
    """An Envoy that has all of the world."""
    state, world = EnvoyState(), World()
    envoy = Envoy(state)
    _finish(state, envoy, world)
    return state, envoy, world


def _redirected(state: EnvoyState, world: World, cluster: str) -> None:
    before, world.cluster = world.cluster, cluster
    world.generation += 1
    for url in (CDS, EDS):
        state.changed(url, {before, cluster})
    state.changed(RDS, [ROUTES])


def test_clusters_of_rejected_routes_stay_with_the_last_good_ones() -> None:
    state, envoy, world = _told()
    _redirected(state, world, "b")
    for _ in range(4):
        for response in state.responses(world.resources()):
            if response.type_url == RDS:
                envoy.nonces[RDS] = response.nonce
                state.receive(_ack(response, ROUTES, error="no"))
            else:
                envoy.take(response)
                envoy.heard()
    assert state.rejected == "no"
    assert not state.settled(RDS)
    assert envoy.route == "a"
    state.changed(CDS, [])
    _finish(state, envoy, world)
    assert envoy.clusters.keys() == {"a", "b"}
    _redirected(state, world, "b")
    _finish(state, envoy, world)
    assert (envoy.route, set(envoy.clusters)) == ("b", {"b"})
    assert state.current


def test_only_changed_routes_and_certificates_are_sent() -> None:
    state = EnvoyState()
    resources = {
        CDS: {},
        EDS: {},
        SDS: {name: Resource(name.encode(), 1) for name in ("s", "t")},
        LDS: {"listener": Resource(b"listener", 1)},
        RDS: {name: Resource(name.encode(), 1) for name in ("a", "b")},
    }
    state.receive(DiscoveryRequest(type_url=CDS))
    state.receive(DiscoveryRequest(type_url=SDS, resource_names=["s", "t"]))
    state.receive(DiscoveryRequest(type_url=RDS, resource_names=["a", "b"]))
    clusters, secrets = state.responses(resources)
    assert [resource.value for resource in secrets.resources] == [b"s", b"t"]
    state.receive(_ack(secrets, "s", "t"))
    assert state.responses(resources) == [], "routes wait for the clusters"
    state.receive(_ack(clusters))
    [routes] = state.responses(resources)
    assert [resource.value for resource in routes.resources] == [b"a", b"b"]
    state.receive(_ack(routes, "a", "b"))
    state.changed(RDS, ["b"])
    state.changed(SDS, ["t"])
    secrets, routes = state.responses(resources)
    assert [resource.value for resource in secrets.resources] == [b"t"]
    assert [resource.value for resource in routes.resources] == [b"b"]
    assert not state.has(SDS, {"t": Resource(b"t", 2)})


def test_a_cluster_that_is_deleted_before_it_is_warm_gets_empty_endpoints() -> None:
    """The real Envoy waits for them for 15 s, and acknowledges no cluster meanwhile."""
    state, world = EnvoyState(), World()
    world.others = {"gone"}
    envoy = Envoy(state)
    for response in state.responses(world.resources()):
        envoy.take(response)
        envoy.heard()
    world.others = set()
    state.changed(CDS, ["gone"])
    state.changed(EDS, ["gone"])
    _finish(state, envoy, world)
    assert envoy.clusters.keys() == {"a"}
    assert state.current


def test_routes_wait_for_endpoints_even_if_the_clusters_were_acknowledged_before() -> None:
    state, resources = EnvoyState(), World().resources()
    for url, *names in ((CDS,), (EDS, "a"), (RDS, ROUTES)):
        state.receive(DiscoveryRequest(type_url=url, resource_names=names))
    clusters, endpoints = state.responses(resources)
    state.receive(_ack(clusters))
    assert state.responses(resources) == []
    state.receive(_ack(endpoints, "a"))
    [routes] = state.responses(resources)
    assert routes.type_url == RDS
