"""The resources of a Gateway's table, by type. Pure.

Each is encoded when it changes, and keeps its generation otherwise.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from epp_client.envoy.edge import GatewayEdge
from epp_client.envoy.endpoints import Assignment
from epp_client.envoy.gateway_routes import RouteWriter
from epp_client.envoy.secrets import secret_name, serialized_secret
from epp_client.envoy.service_clusters import serialized_service_cluster, service_cluster_name
from epp_client.gateway.table import Chain, GatewayTable, Listener, Routes, Service, ServicePort
from epp_client.pool.endpoints import Endpoint, endpoint_key
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import Modes
from epp_client.xds.state import CDS, EDS, LDS, RDS, SDS, EnvoyState, Resource, Resources


@dataclass
class _Endpoints:
    service: Service
    assignment: Assignment
    value: bytes


@dataclass
class GatewayResources:
    """What Envoy is sent for one Gateway."""

    edge: GatewayEdge
    table: GatewayTable | None = None
    """The newest table; None before the first."""
    by_type: dict[str, dict[str, Resource]] = field(
        default_factory=lambda: {url: {} for url in (CDS, EDS, SDS, LDS, RDS)}
    )
    """Clusters and endpoints are those of Services. There is also the cluster of the collector of Envoy's
    spans, which has no EDS resource."""
    _modes: Mapping[PoolName, Modes] = field(default_factory=dict)
    _generation: int = 0
    _routes: RouteWriter = field(default_factory=RouteWriter)
    _listeners: dict[Listener, tuple[str, bytes]] = field(default_factory=dict)
    _endpoints: dict[ServicePort, _Endpoints] = field(default_factory=dict)

    def put(self, table: GatewayTable, modes: Mapping[PoolName, Modes]) -> dict[str, set[str]]:
        """Set the newest table, and what the pickers get, by default everything. Returns the names of
        changed resources by type."""
        self._generation += 1
        self.table, self._modes = table, modes
        services = table.services
        self._listeners = {
            listener: self._listeners.get(listener) or _write_listener(listener, self.edge)
            for listener in table.listeners
        }
        values: dict[str, Mapping[str, bytes]] = {
            CDS: {
                **(_write_collector(self.edge) if table.listeners else {}),
                **{
                    service_cluster_name(port): serialized_service_cluster(port, s.app_protocol)
                    for port, s in services.items()
                },
            },
            EDS: self._written(services),
            SDS: {
                secret_name(name): serialized_secret(name, table.certificates[name])
                for one in _chains(table)
                for name in one.certificates
                if name in table.certificates
            },
            LDS: dict(self._listeners.values()),
            RDS: self._routes.write(_used_routes(table), self.edge.terms(self._modes)),
        }
        touched = {url: self._replace(url, new) for url, new in values.items()}
        return {url: names for url, names in touched.items() if names}

    def ask(self, modes: Mapping[PoolName, Modes]) -> dict[str, set[str]]:
        """Set what pickers get; returns as `put`."""
        if self.table is None or self._modes == modes:
            return {}
        return self.put(self.table, modes)

    def beside(self, clusters: Resources, endpoints: Resources) -> Mapping[str, Resources]:
        """All resources by type, with these clusters and endpoints of pools."""
        own = self.by_type
        return {**own, CDS: Joined(own[CDS], clusters), EDS: Joined(own[EDS], endpoints)}

    def acknowledged(self, state: EnvoyState) -> bool:
        """Whether an Envoy has all that the newest table has for it."""
        # Clusters of pools may be due at any time, and are not part of the table.
        settled = all(map(state.settled, (SDS, LDS, RDS)))
        return settled and all(state.has(url, self.by_type[url]) for url in (CDS, SDS, LDS, RDS))

    def sources(self) -> tuple[str, ...]:
        """Where the newest routes are from. If Envoy rejects routes, one of these is wrong."""
        return self._routes.fresh

    def _written(self, services: Mapping[ServicePort, Service]) -> dict[str, bytes]:
        """The ClusterLoadAssignments."""
        before, self._endpoints = self._endpoints, {}
        for port, service in services.items():
            known = before.get(port)
            if known is None or known.service.endpoints != service.endpoints:
                cluster = service_cluster_name(port)
                assignment = known.assignment if known else Assignment(cluster)
                known = _Endpoints(service, assignment, assignment.write(_endpoints(service)))
            self._endpoints[port] = known
        return {service_cluster_name(port): one.value for port, one in self._endpoints.items()}

    def _replace(self, url: str, values: Mapping[str, bytes]) -> set[str]:
        before, after = self.by_type[url], dict[str, Resource]()
        touched = before.keys() - values.keys()
        for name, value in values.items():
            known = before.get(name)
            if known is None or known.value != value:
                touched.add(name)
                known = Resource(value, self._generation)
            after[name] = known
        self.by_type[url] = after
        return touched


class Joined(Mapping[str, Resource]):
    """Resources of a Gateway and of pools, whose names differ."""

    def __init__(self, *parts: Resources) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Resource:
        for part in self._parts:
            if name in part:
                return part[name]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(name in part for part in self._parts)

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))


def _write_listener(listener: Listener, edge: GatewayEdge) -> tuple[str, bytes]:
    """Its name and its bytes."""
    # It takes 50 MB: imported only if used.
    from epp_client.envoy.gateway_listeners import serialized_listener

    return serialized_listener(listener, edge)


def _write_collector(edge: GatewayEdge) -> Mapping[str, bytes]:
    """The cluster to which listeners send spans; none without tracing."""
    tracing = edge.edge.tracing
    if tracing is None:
        return {}
    # As above.
    from epp_client.envoy.own_clusters import COLLECTOR_CLUSTER, serialized_collector

    return {COLLECTOR_CLUSTER: serialized_collector(tracing.collector)}


def _endpoints(service: Service) -> Iterable[Endpoint]:
    return (Endpoint(endpoint_key(ip, port), ip, port, "") for ip, port in service.endpoints)


def _chains(table: GatewayTable) -> Iterable[Chain]:
    return chain.from_iterable(listener.chains for listener in table.listeners)


def _used_routes(table: GatewayTable) -> list[Routes]:
    """Those that listeners name: Envoy asks for no others. Without any, a listener would never serve."""
    names = dict.fromkeys(one.routes for one in _chains(table))
    return [table.routes.get(name, Routes(name, ())) for name in names]
