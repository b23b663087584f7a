"""What is to be said of a Gateway that is ours, of its class and of HTTPRoutes. Never writes. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from epp_client.gateway.statuses import Condition, RouteName, RouteStatus, Statuses
from epp_client.kubernetes.client.resources import GATEWAY, GATEWAY_CLASS, HTTP_ROUTE
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.status.gateway_merge import (
    Address,
    ClassWanted,
    GatewayWanted,
    RouteWanted,
    before_acknowledgement,
)
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.subjects import Object, Said, Subject, Wanted, generation

_CLASS_CONDITIONS = (
    Condition("Accepted", "True", "Accepted", "Served by epp-client"),
    Condition(
        "SupportedVersion",
        "True",
        "SupportedVersion",
        "The cluster serves gateway.networking.k8s.io/v1, which epp-client reads",
    ),
)


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """The newest state of a Gateway."""

    statuses: Statuses | None
    """None: the Gateway is not ours any more, or has been deleted."""
    gateway: Object | None
    gateway_class: Object | None
    """None: nothing is said of the class."""
    routes: Mapping[Key, Object]
    resolved: Callable[[Key], int | None]
    """The generation of a route that `statuses` are about; None if it was not known then."""
    acknowledged: bool | None
    """Whether an Envoy has the table of this generation of the Gateway. None: nothing is said yet."""
    addresses: tuple[Address, ...] = ()


def said_of_gateway(facts: GatewayFacts, parent: Parent) -> Said:
    """What is wanted of the Gateway, its class and the HTTPRoutes."""
    objects: dict[Subject, Object] = {}
    wanted: dict[Subject, Wanted] = {}
    statuses = facts.statuses
    if statuses is not None:
        objects, wanted = _said_of_itself(facts, statuses, parent)
    for key, data in facts.routes.items():
        found = statuses.routes.get(RouteName(*key)) if statuses is not None else None
        if found is None:
            found = _no_entry(key, data, facts, parent)
        if found is not None:
            subject = Subject(HTTP_ROUTE, key.namespace, key.name)
            objects[subject] = data
            wanted[subject] = RouteWanted(parent, found)
    return Said(objects, wanted)


def _said_of_itself(facts: GatewayFacts, statuses: Statuses, parent: Parent) -> Said:
    objects: dict[Subject, Object] = {}
    wanted: dict[Subject, Wanted] = {}
    if (data := facts.gateway_class) is not None:
        subject = Subject(GATEWAY_CLASS, None, str(data["metadata"]["name"]))
        objects[subject] = data
        wanted[subject] = ClassWanted(generation(data), _CLASS_CONDITIONS)
    if (data := facts.gateway) is not None:
        subject = Subject(GATEWAY, *parent.gateway)
        objects[subject] = data
        if facts.acknowledged is not None:
            status = statuses.gateway
            said = status if facts.acknowledged else before_acknowledgement(status)
            wanted[subject] = GatewayWanted(said, facts.addresses)
    return Said(objects, wanted)


def _no_entry(key: Key, data: Object, facts: GatewayFacts, parent: Parent) -> RouteStatus | None:
    """The status without our entries, of a route that has some and does not refer to the Gateway."""
    entries = (data.get("status") or {}).get("parents") or ()
    if not any(parent.owns(entry, key.namespace) for entry in entries):
        return None
    resolved = generation(data) if facts.statuses is None else facts.resolved(key)
    # Of a route that was not known, or has been edited, it is unknown whether it refers to the Gateway.
    return None if resolved is None else RouteStatus(resolved)
