"""The state machine of one ADS stream, for state-of-the-world xDS: what was sent and acknowledged. Pure.

At most one response per type is unanswered at any time, so nothing queues for a slow Envoy: its next
response has the newest state. A response of clusters or listeners has all of them, as the protocol
requires; other responses have only changed resources.

Requests never meet a cluster that is missing: routes are sent once Envoy has the clusters, and clusters are
removed once it has the routes that do not need them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from epp_client.envoy.pb.discovery_pb2 import (
    ClusterLoadAssignment,
    DiscoveryRequest,
    DiscoveryResponse,
)

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
TYPES = (CDS, EDS, SDS, LDS, RDS)
"""In the order in which they are sent."""
WHOLE = (CDS, LDS)
"""Types of which every response has all resources."""


class Resource(NamedTuple):
    """One encoded resource."""

    value: bytes
    generation: int = 0
    """Table generation of a pool's EDS resource; of others, a number that grows with each change."""


Resources = Mapping[str, Resource]


@dataclass
class _Type:
    # None: not subscribed. Empty: subscribed to everything.
    names: frozenset[str] | None = None
    version: int = 0
    nonce: str = ""
    # Whether the last response is unanswered.
    waiting: bool = False
    due: bool = True
    # Resources that have to be sent, of a type that sends only changes.
    stale: set[str] = field(default_factory=set)
    sent: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    # Envoy's error message, if it rejected the last response.
    rejected: str | None = None


class EnvoyState:
    """One ADS stream."""

    def __init__(self) -> None:
        self._types = {url: _Type() for url in TYPES}
        self._clusters: dict[str, Resource] = {}
        # Clusters that are sent only for routes that Envoy may still have.
        self._kept: set[str] = set()
        # EDS resources without which Envoy keeps a cluster in warming.
        self._awaited: set[str] = set()
        self.held: set[str] = set()
        """EDS resources that the last `responses` delayed because of their cool-down."""

    def acknowledged(self, name: str) -> int | None:
        """The generation of an EDS resource that this Envoy has. -1: none yet. None: it has not asked for
        the resource (another upstream mode, or no such cluster yet)."""
        endpoints = self._types[EDS]
        if name not in (endpoints.names or ()):
            return None
        return endpoints.acknowledged.get(name, -1)

    @property
    def follows(self) -> frozenset[str]:
        """The EDS resources that this Envoy has asked for."""
        return self._types[EDS].names or frozenset()

    @property
    def told(self) -> Collection[str]:
        """The EDS resources of the last response."""
        return self._types[EDS].sent.keys()

    def has(self, type_url: str, resources: Resources) -> bool:
        """Whether Envoy has acknowledged the newest of all these resources."""
        known = self._types[type_url].acknowledged.get
        return all(known(name) == r.generation for name, r in resources.items())

    def settled(self, type_url: str) -> bool:
        """Whether Envoy has accepted all that is due of this type, or has not asked for any."""
        state = self._types[type_url]
        behind = state.due or state.waiting or state.rejected is not None
        return state.names is None or not behind

    def follows_type(self, type_url: str) -> bool:
        """Whether Envoy has subscribed to this type."""
        return self._types[type_url].names is not None

    def told_of(self, type_url: str) -> Collection[str]:
        """The resources of the last response of this type."""
        return self._types[type_url].sent.keys()

    @property
    def rejected(self) -> str | None:
        """Envoy's error message, if it rejected the last response of a type."""
        return next((t.rejected for t in self._types.values() if t.rejected is not None), None)

    @property
    def current(self) -> bool:
        """Whether Envoy has answered the clusters, and everything else that was due."""
        asked = [state for state in self._types.values() if state.names is not None]
        return self._types[CDS].version > 0 and not any(t.waiting or t.due for t in asked)

    def receive(self, request: DiscoveryRequest) -> Collection[str]:
        """Process one request: a subscription, an acknowledgement, or a rejection.
        Returns the EDS resources whose `acknowledged` may have changed.
        """
        state = self._types.get(request.type_url)
        if state is None or (request.response_nonce and request.response_nonce != state.nonce):
            # An unknown type, or an answer to an older response.
            return ()
        touched = self._subscribe(state, request)
        if request.response_nonce and state.waiting:
            self._answer(state, request)
            if state.rejected is None:
                touched |= state.sent.keys()
        return touched if request.type_url == EDS else ()

    def _answer(self, state: _Type, request: DiscoveryRequest) -> None:
        state.waiting = False
        if request.type_url == EDS:
            self._awaited -= state.sent.keys() - state.stale
        if request.HasField("error_detail"):
            state.rejected = request.error_detail.message
            # Send it again with the next change.
            state.stale |= state.sent.keys()
            return
        state.rejected = None
        state.acknowledged |= state.sent
        if request.type_url == RDS and self._kept:
            self._types[CDS].due = True

    def _subscribe(self, state: _Type, request: DiscoveryRequest) -> set[str]:
        """Set the names that Envoy subscribes to; returns those added or removed."""
        before, names = state.names or frozenset(), frozenset(request.resource_names)
        if state.names == names and request.response_nonce:
            return set()
        fresh = names if state.names is None or not request.response_nonce else names - before
        for name in before - names:
            state.acknowledged.pop(name, None)
        state.names = names
        state.stale = (state.stale | fresh) & names
        state.due = True
        if request.type_url == EDS:
            self._awaited = (self._awaited | fresh) & names
        return set(before ^ names)

    def changed(self, type_url: str, names: Collection[str]) -> None:
        """These resources have changed."""
        state = self._types[type_url]
        state.due = True
        state.stale |= state.names & set(names) if state.names else set()

    def removed(self, name: str) -> None:
        """A pool was deleted. A new pool of the name would start with generation 1."""
        endpoints = self._types[EDS]
        endpoints.acknowledged.pop(name, None)
        endpoints.sent.pop(name, None)

    def responses(
        self, resources: Mapping[str, Resources], cooling: Collection[str] = ()
    ) -> list[DiscoveryResponse]:
        """The responses to send now, given the current resources by type.
        `cooling` EDS resources are delayed, unless Envoy needs them to finish the warming of a cluster.
        """
        made: list[DiscoveryResponse] = []
        for url in TYPES:
            state = self._types[url]
            if state.names is None or state.waiting or not state.due or url not in resources:
                continue
            if url == RDS and not self._warmed:
                continue
            if url == EDS:
                self.held = (state.stale & set(cooling)) - self._awaited
            whole = url in WHOLE
            wanted = self._all(url, resources) if whole else self._changes(url, resources[url])
            # What Envoy asks for and is not sent does not exist yet.
            state.due = url == EDS and bool(self.held)
            if wanted or whole:
                made.append(_respond(url, state, wanted))
        return made

    def _changes(self, url: str, resources: Resources) -> Resources:
        state = self._types[url]
        names = sorted(state.stale - self.held if url == EDS else state.stale)
        wanted = {name: resources[name] for name in names if name in resources}
        if url == EDS:
            # Envoy waits for the endpoints of a new cluster, for up to 15 s, even if it was deleted.
            awaited = self._awaited & self._clusters.keys() & set(names)
            wanted |= {n: _no_endpoints(n) for n in awaited if n not in resources}
        state.stale -= wanted.keys()
        return wanted

    def _all(self, url: str, resources: Mapping[str, Resources]) -> Resources:
        names = self._types[url].names
        wanted = {n: r for n, r in resources[url].items() if not names or n in names}
        return self._clusters_of(wanted, resources.get(RDS, {})) if url == CDS else wanted

    def _clusters_of(self, wanted: Resources, routes: Resources) -> Resources:
        """Envoy's next clusters: `wanted`, and those that its routes need until they are replaced."""
        before = self._clusters
        # A changed cluster stays in warming until its endpoints are sent again.
        changed = [n for n, r in wanted.items() if n not in before or r.value != before[n].value]
        self.changed(EDS, changed)
        self._awaited |= self.follows & set(changed)
        old = self._types[RDS]
        # Rejected ones are stale.
        replaced = old.waiting or old.stale & routes.keys()
        self._kept = before.keys() - wanted.keys() if replaced else set()
        self._clusters = {**wanted, **{name: before[name] for name in self._kept}}
        return self._clusters

    @property
    def _warmed(self) -> bool:
        """Whether Envoy has the newest clusters, with endpoints."""
        clusters = self._types[CDS]
        return not (clusters.due or clusters.waiting or self._awaited & self._clusters.keys())


def _no_endpoints(name: str) -> Resource:
    return Resource(ClusterLoadAssignment(cluster_name=name).SerializeToString())


def _respond(url: str, state: _Type, wanted: Resources) -> DiscoveryResponse:
    state.version += 1
    state.nonce = str(state.version)
    state.waiting = True
    state.sent = {name: resource.generation for name, resource in wanted.items()}
    response = DiscoveryResponse(version_info=state.nonce, type_url=url, nonce=state.nonce)
    for resource in wanted.values():
        response.resources.add(type_url=url, value=resource.value)
    return response
