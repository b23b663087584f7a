"""The state machine of one ADS stream, for state-of-the-world xDS: what was sent and acknowledged. Pure.

At most one response per type is unanswered at any time, so nothing queues for a slow Envoy: its next
response has the newest state. A CDS response has every cluster, as the protocol requires; an EDS response
has only changed pools.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from epp_client.envoy.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
# Clusters have to be sent before their endpoints.
TYPES = (CDS, EDS)


class Resource(NamedTuple):
    """One encoded resource."""

    value: bytes
    generation: int = 0
    """Table generation of an EDS resource."""


Resources = Mapping[str, Resource]


@dataclass
class _Type:
    # None: not subscribed. Empty: subscribed to everything (CDS).
    names: frozenset[str] | None = None
    version: int = 0
    nonce: str = ""
    # Whether the last response is unanswered.
    waiting: bool = False
    due: bool = True
    # EDS resources that have to be sent.
    stale: set[str] = field(default_factory=set)
    sent: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)


class EnvoyState:
    """One ADS stream."""

    def __init__(self) -> None:
        self._types = {url: _Type() for url in TYPES}
        self._clusters: dict[str, bytes] = {}
        # EDS resources without which Envoy keeps a cluster in warming.
        self._awaited: set[str] = set()
        self.held: set[str] = set()
        """EDS resources that the last `responses` delayed because of their cool-down."""
        self.rejected: str | None = None
        """Envoy's error message if it rejected the last response; None after an acknowledgement."""

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
            state.waiting = False
            if request.HasField("error_detail"):
                self.rejected = request.error_detail.message
                # Send it again with the next change.
                state.stale |= state.sent.keys()
            else:
                self.rejected = None
                state.acknowledged |= state.sent
                touched |= state.sent.keys()
        return touched if request.type_url == EDS else ()

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
        clusters = self._clusters_due(resources[CDS])
        return [*clusters, *self._endpoints_due(resources[EDS], cooling)]

    def _clusters_due(self, resources: Resources) -> list[DiscoveryResponse]:
        state = self._types[CDS]
        if state.names is None or state.waiting or not state.due:
            return []
        wanted = {
            name: r for name, r in resources.items() if not state.names or name in state.names
        }
        clusters = {name: resource.value for name, resource in wanted.items()}
        # A changed cluster stays in warming until its endpoints are sent again.
        changed = [name for name in clusters if clusters[name] != self._clusters.get(name)]
        self.changed(EDS, changed)
        self._awaited |= self.follows & set(changed)
        self._clusters = clusters
        return [_respond(CDS, state, wanted)]

    def _endpoints_due(
        self, resources: Resources, cooling: Collection[str]
    ) -> list[DiscoveryResponse]:
        state = self._types[EDS]
        if state.names is None or state.waiting or not state.due:
            return []
        self.held = (state.stale & set(cooling)) - self._awaited
        names = sorted(state.stale - self.held)
        wanted = {name: resources[name] for name in names if name in resources}
        if not wanted:
            # The other resources that Envoy asks for do not exist yet.
            state.due = bool(self.held)
            return []
        state.stale -= wanted.keys()
        self._awaited -= wanted.keys()
        response = _respond(EDS, state, wanted)
        state.due = bool(self.held)
        return [response]


def _respond(url: str, state: _Type, wanted: Resources) -> DiscoveryResponse:
    state.version += 1
    state.nonce = str(state.version)
    state.waiting, state.due = True, False
    state.sent = {name: resource.generation for name, resource in wanted.items()}
    response = DiscoveryResponse(version_info=state.nonce, type_url=url, nonce=state.nonce)
    for resource in wanted.values():
        response.resources.add(type_url=url, value=resource.value)
    return response
