"""Turns the rules of an HTTPRoute into entries of the table, with resolved references. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from epp_client.gateway.hosts import Candidate, candidate
from epp_client.gateway.http_route import HttpRoute, Rule
from epp_client.gateway.listeners import ListenerFacts
from epp_client.gateway.references import Backends, Unresolved
from epp_client.gateway.shapes import BackendReference
from epp_client.gateway.statuses import Condition
from epp_client.gateway.table import (
    DEFAULT_PORTS,
    Backend,
    Entry,
    Forward,
    Mirror,
    Redirect,
    ServicePort,
)
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.problems import Fault, Path, dotted


class _Row(NamedTuple):
    """An entry with the index of its rule and of its match."""

    rule: int
    match: int
    entry: Entry


@dataclass
class RouteEntries:
    """The entries of one route, and the condition ResolvedRefs."""

    route: HttpRoute
    rows: list[_Row] = field(default_factory=list)
    unresolved: list[tuple[Unresolved, Fault]] = field(default_factory=list)

    @property
    def resolved(self) -> Condition:
        """The condition ResolvedRefs. Its reason is that of the first bad reference."""
        if not self.unresolved:
            return Condition("ResolvedRefs", "True", "ResolvedRefs")
        text = "; ".join(f"{dotted(fault.path)}: {why.text}" for why, fault in self.unresolved)
        return Condition("ResolvedRefs", "False", self.unresolved[0][0].reason, text)

    def on(self, listener: ListenerFacts) -> Iterator[Candidate]:
        """The entries as they are on a listener: a redirect may keep its scheme and port."""
        for row in self.rows:
            entry = row.entry
            if isinstance(entry.action, Redirect):
                entry = entry._replace(action=_redirect(entry.action, listener))
            yield candidate(self.route, row.rule, row.match, entry)


def entries_of(route: HttpRoute, backends: Backends) -> RouteEntries:
    """Resolve the references of all rules, and make an entry of each match."""
    found = RouteEntries(route)
    for index, rule in enumerate(route.rules):
        action = _action(rule, route, backends, found)
        source = f"HTTPRoute {route.name} rules[{index}]"
        for at, match in enumerate(rule.matches):
            entry = Entry(match, action, rule.request_headers, rule.response_headers, source)
            found.rows.append(_Row(index, at, entry))
    return found


def _action(
    rule: Rule, route: HttpRoute, backends: Backends, found: RouteEntries
) -> Forward | Redirect:
    resolved: list[Backend] = []
    for one in rule.backends:
        target = _target(route, one.reference, one.path, backends, found)
        if one.weight > 0:
            resolved.append(Backend(target, one.weight, one.request_headers, one.response_headers))
    mirrors: list[Mirror] = []
    for mirror in rule.mirrors:
        target = _target(route, mirror.reference, mirror.path, backends, found)
        if isinstance(target, ServicePort):
            mirrors.append(Mirror(target, mirror.numerator, mirror.denominator))
        elif target is not None:
            text = "mirrors to an InferencePool are not supported; a Service is"
            why = Unresolved("InvalidKind", text)
            found.unresolved.append((why, Fault(mirror.path, text, why.severity)))
    if rule.faults:
        return Forward()
    if rule.redirect is not None:
        return rule.redirect
    return Forward(
        tuple(resolved),
        rule.hostname,
        rule.path,
        tuple(mirrors),
        rule.timeout,
        rule.backend_timeout,
    )


def _target(
    route: HttpRoute,
    reference: BackendReference,
    path: Path,
    backends: Backends,
    found: RouteEntries,
) -> PoolName | ServicePort | None:
    target = backends.resolve(route.name, reference)
    if isinstance(target, Unresolved):
        found.unresolved.append((target, Fault(path, target.text, target.severity)))
        return None
    return target


def _redirect(redirect: Redirect, listener: ListenerFacts) -> Redirect:
    """The port of the new URL, by the rules of the field `port` of a RequestRedirect: that of the scheme,
    or of the listener if the scheme stays. A scheme's own port is not written."""
    port = redirect.port
    if port is None and not redirect.scheme:
        port = listener.port
    scheme = redirect.scheme or listener.protocol.lower()
    return redirect._replace(port=None if port == DEFAULT_PORTS.get(scheme) else port)
