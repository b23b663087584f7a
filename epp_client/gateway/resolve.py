"""Resolves a Gateway and the routes that attach to it: what Envoy is to serve, and what is said in status.

Pure and level-based: it takes the whole state, not changes. What was read of an object that has not changed
is kept, so that a change of one route costs the reading of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import ValidationError as PydanticError

from epp_client.gateway.attach import listed
from epp_client.gateway.contribution import (
    Contribution,
    Kept,
    Surroundings,
    contribution_of,
    surroundings_of,
)
from epp_client.gateway.hosts import Candidate, build_hosts
from epp_client.gateway.http_route import HttpRoute, read_route
from epp_client.gateway.listeners import ListenerFacts, read_listeners
from epp_client.gateway.references import Backends, Certificates, Grants
from epp_client.gateway.shapes import GatewayShape, GatewaySpec, ignored_fields
from epp_client.gateway.statuses import (
    Condition,
    GatewayStatus,
    ListenerStatus,
    RouteName,
    RouteStatus,
    Statuses,
)
from epp_client.gateway.table import (
    Chain,
    Entry,
    Forward,
    GatewayName,
    GatewayTable,
    Listener,
    Routes,
    Service,
    ServicePort,
)
from epp_client.gateway.world import GatewayResolution, GatewayWorld, Object, References
from epp_client.pool.problems import Fault, Problem, Severity, dotted
from epp_client.pool.service_addresses import Place, place_of
from epp_client.pool.shapes import faults_of


@dataclass
class _Work:
    """One resolution while it is made."""

    world: GatewayWorld
    name: GatewayName
    listeners: tuple[ListenerFacts, ...]
    grants: Grants
    services: dict[ServicePort, Service] = field(default_factory=dict)
    """The Services that were found."""
    wanted: set[Place] = field(default_factory=set)
    """The Services that routes may refer to."""
    rows: dict[str, dict[str, list[Candidate]]] = field(default_factory=dict)
    """Candidates by listener and hostname."""
    attached: dict[str, set[RouteName]] = field(default_factory=dict)
    """The routes of each listener."""
    statuses: dict[RouteName, RouteStatus] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def say(self, subject: str, faults: Iterable[Fault]) -> None:
        """Note the faults of an object."""
        self.problems += [
            Problem(fault.severity, fault.text, subject, dotted(fault.path)) for fault in faults
        ]


def resolve_gateway(world: GatewayWorld, previous: GatewayResolution | None) -> GatewayResolution:
    """Resolve the Gateway of `world`. `previous` is its last resolution, if there is one."""
    name = GatewayName(*place_of(world.gateway))
    try:
        shape = GatewayShape.model_validate(world.gateway)
    except PydanticError as error:
        return _unreadable(name, faults_of(error))
    grants = Grants(world.grants)
    certificates = Certificates(world, grants)
    listeners = read_listeners(shape.spec.listeners, name, certificates)
    work = _Work(world, name, listeners, grants)
    for listener in listeners:
        work.rows[listener.name], work.attached[listener.name] = {}, set()
        faults = [fault for said, fault in listener.faults if said.type != "Conflicted"]
        work.say(f"Gateway {name}", faults)
    read = _read(world.routes, previous)
    around = surroundings_of(world, name, listeners)
    contributions = _contributions(work, [route for _, route in read.values()], around, previous)
    table = _table(work, certificates)
    ignored = ignored_fields(GatewaySpec, world.gateway)
    work.say(f"Gateway {name}", ignored)
    parameters = _parameters(shape, world)
    status = GatewayStatus(
        name,
        shape.metadata.generation,
        _gateway_conditions(listeners, parameters[1], ignored, table),
        tuple(_listener_status(one, len(work.attached[one.name])) for one in listeners),
    )
    references = References(
        frozenset(work.wanted),
        frozenset(certificates.wanted),
        parameters[0],
        any(listener.allowed.selector is not None for listener in listeners),
    )
    return GatewayResolution(
        table,
        Statuses(status, work.statuses),
        references,
        tuple(dict.fromkeys(work.problems)),
        read,
        Kept(around, contributions),
    )


def _read(
    objects: Sequence[Object], previous: GatewayResolution | None
) -> Mapping[RouteName, tuple[Object, HttpRoute]]:
    before = previous.read if previous is not None else {}
    found: dict[RouteName, tuple[Object, HttpRoute]] = {}
    for data in objects:
        name = RouteName(*place_of(data))
        known = before.get(name)
        if known is None or known[0] is not data:
            known = (data, read_route(data))
        found[name] = known
    return found


def _contributions(
    work: _Work, read: Iterable[HttpRoute], around: Surroundings, previous: GatewayResolution | None
) -> Mapping[RouteName, Contribution]:
    """What the routes of this Gateway contribute. What has not changed is taken from `previous`."""
    kept = previous.kept if previous is not None else None
    before = kept.contributions if kept is not None and kept.around == around else {}
    backends = Backends(work.world, work.grants)
    found: dict[RouteName, Contribution] = {}
    for route in read:
        if route.faults:
            # Whose route it is cannot be told, so it has no status.
            work.say(f"HTTPRoute {route.name}", route.faults)
        elif any(parent.gateway == work.name for parent in route.parents):
            known = before.get(route.name)
            if known is None or known.route is not route:
                known = contribution_of(route, around, backends)
            found[route.name] = known
            _add(work, known)
    return found


def _add(work: _Work, one: Contribution) -> None:
    name = one.route.name
    work.problems += one.problems
    work.statuses[name] = one.status
    work.services.update(one.services)
    work.wanted |= one.wanted
    for listener, rows in one.rows.items():
        work.attached[listener].add(name)
        known = work.rows[listener]
        for hostname, candidates in rows.items():
            known.setdefault(hostname, []).extend(candidates)


def _table(work: _Work, certificates: Certificates) -> GatewayTable:
    routes: dict[str, Routes] = {}
    ports: dict[int, list[Chain]] = {}
    served = [listener for listener in work.listeners if listener.served]
    for port in sorted({listener.port for listener in served}):
        here = [listener for listener in served if listener.port == port]
        if here[0].tls:
            # The server name decides about the listener, so each has a table of its own.
            for one in here:
                name = f"https/{port}/{one.name}"
                routes[name] = Routes(name, build_hosts({one.hostname: work.rows[one.name]}))
                chain = Chain(name, one.hostname, one.certificates)
                ports.setdefault(port, []).append(chain)
        else:
            name = f"http/{port}"
            rows = {one.hostname: work.rows[one.name] for one in here}
            routes[name] = Routes(name, build_hosts(rows))
            ports[port] = [Chain(name)]
    table = GatewayTable(
        work.name,
        tuple(Listener(port, tuple(chains)) for port, chains in ports.items()),
        routes,
    )
    services = sorted(set(_services(table.entries())))
    secrets = sorted({secret for listener in served for secret in listener.certificates})
    return replace(
        table,
        services={port: work.services[port] for port in services},
        certificates={secret: certificates.found[secret] for secret in secrets},
    )


def _services(entries: Iterable[Entry]) -> Iterable[ServicePort]:
    for entry in entries:
        if isinstance(entry.action, Forward):
            yield from (mirror.service for mirror in entry.action.mirrors)
            for backend in entry.action.backends:
                if isinstance(backend.target, ServicePort):
                    yield backend.target


# --- what is said of the Gateway ---


def _parameters(shape: GatewayShape, world: GatewayWorld) -> tuple[frozenset[tuple[str, str]], str]:
    """The ConfigMap that `infrastructure.parametersRef` names, and what is wrong with it."""
    reference = shape.spec.infrastructure.parameters_ref
    if reference is None:
        return frozenset(), ""
    if (reference.group, reference.kind) != ("", "ConfigMap"):
        kind = f"{reference.group}/{reference.kind}" if reference.group else reference.kind
        text = f"spec.infrastructure.parametersRef: kind {kind} is not supported; ConfigMap is"
        return frozenset(), text
    place = (shape.metadata.namespace, reference.name)
    wrong = ""
    if place not in world.config_maps:
        wrong = f"spec.infrastructure.parametersRef: ConfigMap {'/'.join(place)} does not exist"
    return frozenset((place,)), wrong


def _gateway_conditions(
    listeners: Sequence[ListenerFacts],
    parameters: str,
    ignored: Sequence[Fault],
    table: GatewayTable,
) -> tuple[Condition, ...]:
    bad = [listener for listener in listeners if not listener.accepted]
    names = ", ".join(listener.name for listener in bad)
    if parameters:
        accepted = Condition("Accepted", "False", "InvalidParameters", parameters)
    elif bad:
        usable = len(bad) < len(listeners)
        text = f"Not valid: listener {names}"
        accepted = Condition("Accepted", str(usable), "ListenersNotValid", text)
    else:
        text = f"Ignored: {listed(ignored)}" if ignored else ""
        accepted = Condition("Accepted", "True", "Accepted", text)
    if table.listeners and accepted.status == "True":
        programmed = Condition("Programmed", "True", "Programmed")
    else:
        text = parameters or "No listener can be served; see the listeners' conditions"
        programmed = Condition("Programmed", "False", "Invalid", text)
    return accepted, programmed


def _listener_status(listener: ListenerFacts, attached: int) -> ListenerStatus:
    accepted = listener.fault("Accepted") or Condition("Accepted", "True", "Accepted")
    resolved = listener.fault("ResolvedRefs") or Condition("ResolvedRefs", "True", "ResolvedRefs")
    conflicted = listener.fault("Conflicted") or Condition("Conflicted", "False", "NoConflicts")
    programmed = Condition("Programmed", "True", "Programmed")
    if not listener.served:
        why = accepted if accepted.status == "False" else resolved
        programmed = Condition("Programmed", "False", "Invalid", why.message)
    return ListenerStatus(
        listener.name, listener.kinds, attached, (accepted, programmed, resolved, conflicted)
    )


def _unreadable(name: GatewayName, faults: Sequence[Fault]) -> GatewayResolution:
    """For a Gateway from a file that has the wrong structure."""
    subject = f"Gateway {name}"
    problems = tuple(
        Problem(Severity.ERROR, fault.text, subject, dotted(fault.path)) for fault in faults
    )
    text = "; ".join(f"{dotted(fault.path)}: {fault.text}" for fault in faults)
    said = Condition("Accepted", "False", "Invalid", text)
    status = GatewayStatus(name, 0, (said,))
    return GatewayResolution(GatewayTable(name), Statuses(status), References(), problems)
