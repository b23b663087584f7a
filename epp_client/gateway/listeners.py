"""The listeners of a Gateway as read: which can be served, and which routes may attach to them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from epp_client.gateway.hostnames import ANY
from epp_client.gateway.references import Certificates, Unresolved
from epp_client.gateway.shapes import GATEWAY_GROUP, LabelSelector, ListenerShape
from epp_client.gateway.statuses import Condition
from epp_client.gateway.table import GatewayName, SecretName
from epp_client.pool.problems import Fault, Path
from epp_client.pool.selector import Requirement, Selector

PROTOCOLS = ("HTTP", "HTTPS")
ROUTE_KIND = "HTTPRoute"


class Allowed(NamedTuple):
    """The namespaces whose routes may attach."""

    everywhere: bool = False
    namespace: str | None = None
    """The one namespace."""
    selector: Selector | None = None
    """Of labels of namespaces."""

    def permits(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """Whether routes of a namespace with these labels may attach. None: the labels are not known."""
        if self.everywhere or namespace == self.namespace:
            return True
        return self.selector is not None and labels is not None and self.selector.matches(labels)


@dataclass(frozen=True, slots=True)
class ListenerFacts:
    """One listener."""

    name: str
    port: int
    protocol: str
    hostname: str
    kinds: tuple[str, ...]
    """Kinds of routes that may attach: `HTTPRoute`, or nothing."""
    allowed: Allowed
    certificates: tuple[SecretName, ...]
    faults: tuple[tuple[Condition, Fault], ...] = ()
    """Conditions that are not as they should be, with their places."""

    @property
    def tls(self) -> bool:
        """Whether clients connect with TLS."""
        return self.protocol == "HTTPS"

    def fault(self, condition: str) -> Condition | None:
        """The condition of this type if there is something wrong."""
        return next((said for said, _ in self.faults if said.type == condition), None)

    @property
    def accepted(self) -> bool:
        """Whether its fields can be served."""
        return self.fault("Accepted") is None

    @property
    def served(self) -> bool:
        """Whether Envoy can have it."""
        return self.accepted and bool(self.kinds) and (bool(self.certificates) or not self.tls)


def read_listeners(
    shapes: Sequence[ListenerShape], gateway: GatewayName, certificates: Certificates
) -> tuple[ListenerFacts, ...]:
    """Read all listeners of a Gateway. Of listeners that exclude each other the first one is served."""
    found: list[ListenerFacts] = []
    for at, shape in enumerate(shapes):
        found.append(_listener(shape, ("spec", "listeners", at), gateway, certificates, found))
    return tuple(found)


def _listener(
    shape: ListenerShape,
    path: Path,
    gateway: GatewayName,
    certificates: Certificates,
    earlier: Sequence[ListenerFacts],
) -> ListenerFacts:
    faults: list[tuple[Condition, Fault]] = []

    def wrong(kind: str, reason: str, text: str, place: Path) -> None:
        faults.append((Condition(kind, "False", reason, text), Fault(place, text)))

    kinds: tuple[str, ...] = (ROUTE_KIND,)
    supported = shape.protocol in PROTOCOLS
    if not supported:
        kinds = ()
        text = f"protocol {shape.protocol} is not supported; HTTP and HTTPS are"
        wrong("Accepted", "UnsupportedProtocol", text, (*path, "protocol"))
    elif clash := _clash(shape, earlier):
        reason, text = clash
        wrong("Accepted", reason, text, (*path, "port"))
        faults.append((Condition("Conflicted", "True", reason, text), Fault((*path, "port"), text)))
    secrets: tuple[SecretName, ...] = ()
    if supported and shape.protocol == "HTTPS":
        secrets, unresolved = _secrets(shape, gateway, certificates)
        for at, why in unresolved:
            place: Path = (*path, "tls", "certificateRefs", at)
            wrong("ResolvedRefs", why.reason, why.text, place)
        if shape.tls is not None and shape.tls.mode != "Terminate":
            text = f"mode {shape.tls.mode} is not supported; Terminate is"
            wrong("Accepted", "UnsupportedValue", text, (*path, "tls", "mode"))
    for at, kind in enumerate(shape.allowed_routes.kinds if supported else ()):
        if (kind.group, kind.kind) != (GATEWAY_GROUP, ROUTE_KIND):
            text = f"routes of kind {kind.kind} are not supported; {ROUTE_KIND} is"
            place = (*path, "allowedRoutes", "kinds", at)
            wrong("ResolvedRefs", "InvalidRouteKinds", text, place)
    if shape.allowed_routes.kinds and ROUTE_KIND not in {
        kind.kind for kind in shape.allowed_routes.kinds if kind.group == GATEWAY_GROUP
    }:
        kinds = ()
    return ListenerFacts(
        shape.name,
        shape.port,
        shape.protocol,
        shape.hostname or ANY,
        kinds,
        _allowed(shape, gateway),
        secrets,
        tuple(faults),
    )


def _clash(shape: ListenerShape, earlier: Sequence[ListenerFacts]) -> tuple[str, str] | None:
    """The reason and the text of a conflict with an earlier listener of the same port."""
    for other in earlier:
        if other.port != shape.port or not other.accepted:
            continue
        if other.protocol != shape.protocol:
            text = f"port {shape.port} is {other.protocol} by listener {other.name}"
            return "ProtocolConflict", text
        if other.hostname == (shape.hostname or ANY):
            text = f"port {shape.port} has the hostname {other.hostname} by listener {other.name}"
            return "HostnameConflict", text
    return None


def _secrets(
    shape: ListenerShape, gateway: GatewayName, certificates: Certificates
) -> tuple[tuple[SecretName, ...], list[tuple[int, Unresolved]]]:
    references = shape.tls.certificate_refs if shape.tls is not None else []
    if not references:
        return (), [(0, Unresolved("InvalidCertificateRef", "HTTPS needs a certificate"))]
    found: list[SecretName] = []
    unresolved: list[tuple[int, Unresolved]] = []
    for at, reference in enumerate(references):
        secret = certificates.resolve(gateway.namespace, reference)
        if isinstance(secret, Unresolved):
            unresolved.append((at, secret))
        else:
            found.append(secret)
    return tuple(found), unresolved


def _allowed(shape: ListenerShape, gateway: GatewayName) -> Allowed:
    namespaces = shape.allowed_routes.namespaces
    match namespaces.from_:
        case "All":
            return Allowed(everywhere=True)
        case "Selector":
            return Allowed(selector=_selector(namespaces.selector))
        case "Same":
            return Allowed(namespace=gateway.namespace)
    return Allowed()


def _selector(shape: LabelSelector) -> Selector:
    found = [Requirement(key, frozenset((value,))) for key, value in shape.match_labels.items()]
    for one in shape.match_expressions:
        values = frozenset(one.values) if one.operator in ("In", "NotIn") else None
        wanted = one.operator in ("In", "Exists")
        found.append(Requirement(one.key, values, wanted))
    return Selector(tuple(found))
