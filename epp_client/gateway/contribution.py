"""What one HTTPRoute contributes to a Gateway: its rows on each listener, its status, its problems. Pure.

It depends on the route and on its surroundings alone, so it is kept while neither changes: a change of one
route costs one contribution.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from epp_client.gateway.attach import attach, errors_of, partially_invalid
from epp_client.gateway.entries import entries_of
from epp_client.gateway.hosts import Candidate
from epp_client.gateway.http_route import HttpRoute
from epp_client.gateway.listeners import ListenerFacts
from epp_client.gateway.references import Backends
from epp_client.gateway.statuses import ParentStatus, RouteName, RouteStatus
from epp_client.gateway.table import GatewayName, Service, ServicePort
from epp_client.gateway.world import GatewayWorld
from epp_client.pool.problems import Fault, Problem, dotted
from epp_client.pool.service_addresses import Place


class Surroundings(NamedTuple):
    """All that contributions depend on besides the route. Equal ones make equal contributions."""

    gateway: GatewayName
    listeners: Sequence[ListenerFacts]
    grants: Sequence[Mapping[str, Any]]
    pools: frozenset[Any]
    services: Mapping[Place, Any]
    slices: Mapping[Place, Any]
    pods: Sequence[Any]
    namespaces: Mapping[str, Mapping[str, str]]


def surroundings_of(
    world: GatewayWorld, name: GatewayName, listeners: Sequence[ListenerFacts]
) -> Surroundings:
    """Of the routes of a world."""
    return Surroundings(
        name,
        listeners,
        world.grants,
        frozenset(world.pools),
        world.services,
        world.slices,
        world.pods,
        world.namespaces,
    )


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one route contributes."""

    route: HttpRoute
    rows: Mapping[str, Mapping[str, Sequence[Candidate]]]
    """By name of the listener and hostname. Listeners that it is not attached to are missing."""
    status: RouteStatus
    problems: tuple[Problem, ...]
    wanted: frozenset[Place]
    """The Services that it may refer to, whether they exist or not."""
    services: Mapping[ServicePort, Service]
    """Those that were found."""


def contribution_of(route: HttpRoute, around: Surroundings, backends: Backends) -> Contribution:
    """Attach a route to the listeners of its Gateway, and resolve its references."""
    entries = entries_of(route, backends)
    errors = errors_of(route)
    faults = [*route.ignored, *errors, *(fault for _, fault in entries.unresolved)]
    labels = around.namespaces.get(route.name.namespace)
    partial = partially_invalid(route)
    parents: list[ParentStatus] = []
    rows: dict[str, Mapping[str, Sequence[Candidate]]] = {}
    for parent in route.parents:
        if parent.gateway != around.gateway:
            continue
        found = attach(route, parent, around.listeners, labels)
        conditions = [found.accepted, entries.resolved]
        if found.hostnames and partial is not None:
            conditions.append(partial)
        parents.append(ParentStatus(parent.reference, tuple(conditions)))
        for listener in around.listeners:
            if listener.name in found.hostnames and listener.name not in rows:
                candidates = list(entries.on(listener))
                hostnames = found.hostnames[listener.name]
                rows[listener.name] = dict.fromkeys(hostnames, candidates)
        if not found.hostnames and not errors:
            faults.append(Fault(("spec", "parentRefs"), found.accepted.message))
    status = RouteStatus(route.generation, tuple(parents))
    problems = tuple(_problems(f"HTTPRoute {route.name}", faults))
    return Contribution(route, rows, status, problems, *backends.asked())


def _problems(subject: str, faults: Iterable[Fault]) -> Iterable[Problem]:
    return (Problem(fault.severity, fault.text, subject, dotted(fault.path)) for fault in faults)


class Kept(NamedTuple):
    """The contributions of one resolution, for the next one."""

    around: Surroundings
    contributions: Mapping[RouteName, Contribution]
