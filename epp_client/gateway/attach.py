"""Which listeners an HTTPRoute attaches to by a parentRef, and the condition Accepted of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from epp_client.gateway.hostnames import intersections
from epp_client.gateway.http_route import HttpRoute, ParentRef
from epp_client.gateway.listeners import ROUTE_KIND, ListenerFacts
from epp_client.gateway.statuses import Condition
from epp_client.pool.problems import Fault, dotted


class Attached(NamedTuple):
    """The result for one parentRef."""

    accepted: Condition
    hostnames: Mapping[str, tuple[str, ...]]
    """The hostnames that the route has on each listener, by its name. Empty: it attaches to none."""


def attach(
    route: HttpRoute,
    parent: ParentRef,
    listeners: Sequence[ListenerFacts],
    labels: Mapping[str, str] | None,
) -> Attached:
    """Attach a route to listeners of its Gateway. `labels` are those of the route's namespace; None: not
    known."""
    if route.rules and all(rule.faults for rule in route.rules):
        return _refused("UnsupportedValue", listed(errors_of(route)))
    named = [
        listener
        for listener in listeners
        if parent.section in ("", listener.name) and parent.port in (None, listener.port)
    ]
    if not named:
        what = f"listener {parent.section}" if parent.section else "listener"
        port = f" of port {parent.port}" if parent.port is not None else ""
        return _refused("NoMatchingParent", f"Gateway {parent.gateway} has no {what}{port}")
    allowed = [
        listener
        for listener in named
        if ROUTE_KIND in listener.kinds
        and listener.accepted
        and listener.allowed.permits(route.name.namespace, labels)
    ]
    if not allowed:
        names = ", ".join(listener.name for listener in named)
        text = f"allowedRoutes of {names}: no {ROUTE_KIND} of namespace {route.name.namespace}"
        return _refused("NotAllowedByListeners", text)
    hostnames = {
        listener.name: found
        for listener in allowed
        if (found := intersections(listener.hostname, route.hostnames))
    }
    if not hostnames:
        theirs = ", ".join(dict.fromkeys(listener.hostname for listener in allowed))
        text = f"none of {', '.join(route.hostnames)} is served by {theirs}"
        return _refused("NoMatchingListenerHostname", text)
    text = f"Ignored: {listed(route.ignored)}" if route.ignored else ""
    return Attached(Condition("Accepted", "True", "Accepted", text), hostnames)


def partially_invalid(route: HttpRoute) -> Condition | None:
    """The condition PartiallyInvalid, if some rules cannot be served as they are written; their requests
    get status 500."""
    errors = errors_of(route)
    if not errors or all(rule.faults for rule in route.rules):
        return None
    text = f"Requests get status 500: {listed(errors)}"
    return Condition("PartiallyInvalid", "True", "UnsupportedValue", text)


def errors_of(route: HttpRoute) -> list[Fault]:
    """Why rules of the route cannot be served as they are written."""
    return [fault for rule in route.rules for fault in rule.faults]


def _refused(reason: str, text: str) -> Attached:
    return Attached(Condition("Accepted", "False", reason, text), {})


def listed(faults: Sequence[Fault]) -> str:
    """Faults in one text, for a condition."""
    return "; ".join(f"{dotted(fault.path)}: {fault.text}" for fault in faults)
