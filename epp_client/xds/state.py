"""What one Envoy has been told and has acknowledged: state-of-the-world xDS as an automaton. Pure.

Requests and new resources go in, responses come out. At most one response per type is unanswered at
any time, so nothing piles up for a slow Envoy: it always gets the newest state next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from epp_client.xds.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
TYPES = (CDS, EDS)  # in the order that Envoy needs them


class Resource(NamedTuple):
    """One resource as it goes over the wire."""

    value: bytes
    generation: int = 0
    """Table generation of an EDS resource."""


Resources = Mapping[str, Resource]


@dataclass
class _Type:
    names: frozenset[str] | None = None  # None: not subscribed; CDS subscribes to everything
    version: int = 0
    nonce: str = ""
    waiting: bool = False  # for the answer to the last response
    dirty: bool = True
    sent: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)


class EnvoyState:
    """One ADS stream."""

    def __init__(self) -> None:
        self._types = {url: _Type() for url in TYPES}
        self._pushed_clusters: dict[str, bytes] = {}
        self.rejected: str | None = None
        """Envoy's words when it rejected the last response; None after an acknowledgement."""

    def acknowledged(self, name: str) -> int | None:
        """The generation of an EDS resource that this Envoy has; -1 for none yet, None when it has
        not asked for the resource (another upstream mode, or its cluster is not there yet)."""
        endpoints = self._types[EDS]
        if name not in (endpoints.names or ()):
            return None
        return endpoints.acknowledged.get(name, -1)

    def receive(self, request: DiscoveryRequest) -> None:
        """Take one request: a subscription, an acknowledgement, or a rejection."""
        state = self._types.get(request.type_url)
        if state is None:
            return
        names = frozenset(request.resource_names)
        if request.response_nonce and request.response_nonce != state.nonce:
            return  # speaks of an older response
        if state.names is None or state.names != names or not request.response_nonce:
            state.names = names
            state.dirty = True
        if request.response_nonce and state.waiting:
            state.waiting = False
            if request.HasField("error_detail"):
                self.rejected = request.error_detail.message
            else:
                self.rejected = None
                state.acknowledged = state.sent

    def changed(self, type_url: str) -> None:
        """The resources of a type are not what they were."""
        self._types[type_url].dirty = True

    def responses(self, resources: Mapping[str, Resources]) -> list[DiscoveryResponse]:
        """What is to be sent now, given the current resources by type."""
        out: list[DiscoveryResponse] = []
        for url in TYPES:
            state = self._types[url]
            if state.names is None or state.waiting or not state.dirty:
                continue
            wanted = resources[url]
            if state.names or url == EDS:  # no names: every cluster, but no endpoints
                wanted = {name: wanted[name] for name in sorted(state.names) if name in wanted}
            out.append(self._respond(url, state, wanted))
        return out

    def _respond(self, url: str, state: _Type, wanted: Resources) -> DiscoveryResponse:
        if url == CDS:
            clusters = {name: resource.value for name, resource in wanted.items()}
            if clusters != self._pushed_clusters:
                # A changed cluster stays in warming until it is told its endpoints again.
                self._pushed_clusters = clusters
                self._types[EDS].dirty = True
        state.version += 1
        state.nonce = str(state.version)
        state.waiting, state.dirty = True, False
        state.sent = {name: resource.generation for name, resource in wanted.items()}
        response = DiscoveryResponse(version_info=state.nonce, type_url=url, nonce=state.nonce)
        for resource in wanted.values():
            response.resources.add(type_url=url, value=resource.value)
        return response
