"""An HTTPRoute as read: whom it attaches to, and its rules with references that are not resolved yet. Pure.

Rules come from `gateway.networking.k8s.io/v1`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError as PydanticError

from epp_client.gateway.filters import PATH, TOKEN, MirrorRef, read_filters, seconds
from epp_client.gateway.regex import regex_fault
from epp_client.gateway.shapes import (
    GATEWAY_GROUP,
    BackendReference,
    MatchShape,
    ParentReference,
    PathShape,
    RouteShape,
    RouteSpec,
    RuleShape,
    ValueShape,
    ignored_fields,
)
from epp_client.gateway.statuses import RouteName
from epp_client.gateway.table import (
    UNCHANGED,
    GatewayName,
    HeaderChange,
    Match,
    PathChange,
    PathKind,
    PathMatch,
    Redirect,
    ValueMatch,
)
from epp_client.pool.problems import Fault, Path
from epp_client.pool.service_addresses import place_of
from epp_client.pool.shapes import faults_of

Object = Mapping[str, Any]

_PATH_KINDS = {kind.value: kind for kind in PathKind}


class ParentRef(NamedTuple):
    """A parentRef that names a Gateway."""

    gateway: GatewayName
    section: str
    """Name of a listener; empty: all."""
    port: int | None
    """Port of listeners; None: all."""
    reference: Object
    """As the route has it."""


class BackendRef(NamedTuple):
    """A backendRef of a rule."""

    reference: BackendReference
    path: Path
    """Its place in the route."""
    weight: int
    request_headers: HeaderChange = UNCHANGED
    response_headers: HeaderChange = UNCHANGED


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    matches: tuple[Match, ...]
    request_headers: HeaderChange = UNCHANGED
    response_headers: HeaderChange = UNCHANGED
    redirect: Redirect | None = None
    hostname: str = ""
    path: PathChange | None = None
    backends: tuple[BackendRef, ...] = ()
    mirrors: tuple[MirrorRef, ...] = ()
    timeout: float | None = None
    backend_timeout: float | None = None
    faults: tuple[Fault, ...] = ()
    """Why it cannot be served as it is written: its requests get status 500."""


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One HTTPRoute."""

    name: RouteName
    generation: int = 0
    created: str = ""
    """`creationTimestamp`; the older of two routes wins."""
    hostnames: tuple[str, ...] = ()
    parents: tuple[ParentRef, ...] = ()
    rules: tuple[Rule, ...] = ()
    faults: tuple[Fault, ...] = ()
    """Of its structure. With them it has no rules."""
    ignored: tuple[Fault, ...] = ()
    """Fields that are not supported. The route is served without them."""


def read_route(data: Object) -> HttpRoute:
    """Read an HTTPRoute. Nothing is raised: faults are part of it."""
    name = RouteName(*place_of(data))
    try:
        shape = RouteShape.model_validate(data)
    except PydanticError as error:
        return HttpRoute(name, faults=tuple(faults_of(error)))
    references = (data.get("spec") or {}).get("parentRefs") or ()
    return HttpRoute(
        name,
        shape.metadata.generation,
        str(shape.metadata.creation_timestamp),
        tuple(shape.spec.hostnames),
        tuple(_parents(shape.spec.parent_refs, references, name.namespace)),
        tuple(_rule(rule, ("spec", "rules", at)) for at, rule in enumerate(shape.spec.rules)),
        ignored=ignored_fields(RouteSpec, data),
    )


def _parents(
    shapes: Iterable[ParentReference], references: Iterable[Object], namespace: str
) -> Iterable[ParentRef]:
    for shape, reference in zip(shapes, references, strict=True):
        if (shape.group, shape.kind) == (GATEWAY_GROUP, "Gateway"):
            gateway = GatewayName(shape.namespace or namespace, shape.name)
            yield ParentRef(gateway, shape.section_name, shape.port, reference)


def _rule(shape: RuleShape, path: Path) -> Rule:
    filters = read_filters(shape.filters, (*path, "filters"))
    faults = list(filters.faults)
    matches = tuple(
        _match(match, (*path, "matches", at), faults) for at, match in enumerate(shape.matches)
    )
    backends: list[BackendRef] = []
    for at, backend in enumerate(shape.backend_refs):
        place: Path = (*path, "backendRefs", at)
        own = read_filters(backend.filters, (*place, "filters"), of_backend=True)
        faults += own.faults
        backends.append(
            BackendRef(backend, place, backend.weight, own.request_headers, own.response_headers)
        )
    times = [
        _timeout(text, (*path, "timeouts", name), faults)
        for name, text in (
            ("request", shape.timeouts.request),
            ("backendRequest", shape.timeouts.backend_request),
        )
    ]
    return Rule(
        matches or (Match(),),
        filters.request_headers,
        filters.response_headers,
        filters.redirect,
        filters.hostname,
        filters.path,
        tuple(backends),
        tuple(filters.mirrors),
        times[0],
        times[1],
        tuple(faults),
    )


def _timeout(text: str, path: Path, faults: list[Fault]) -> float | None:
    if not text:
        return None
    try:
        return seconds(text)
    except ValueError as error:
        faults.append(Fault(path, str(error)))
        return None


def _match(shape: MatchShape, path: Path, faults: list[Fault]) -> Match:
    if shape.method and not TOKEN.fullmatch(shape.method):
        faults.append(Fault((*path, "method"), f"{shape.method[:80]!r} is not a method"))
    return Match(
        _path(shape.path, (*path, "path"), faults),
        shape.method,
        _values(shape.headers, (*path, "headers"), faults, lower=True),
        _values(shape.query_params, (*path, "queryParams"), faults, lower=False),
    )


def _path(shape: PathShape, path: Path, faults: list[Fault]) -> PathMatch:
    kind = _PATH_KINDS.get(shape.type)
    if kind is None:
        faults.append(Fault((*path, "type"), f"{shape.type!r} is not supported"))
        return PathMatch()
    if kind is not PathKind.REGEX and not PATH.fullmatch(shape.value):
        faults.append(Fault((*path, "value"), f"{shape.value[:80]!r} is not a path"))
        return PathMatch()
    if kind is PathKind.PREFIX:
        return PathMatch(kind, shape.value.rstrip("/") or "/")
    if kind is PathKind.REGEX and (why := regex_fault(shape.value)):
        faults.append(Fault((*path, "value"), why))
        return PathMatch()
    return PathMatch(kind, shape.value)


def _values(
    shapes: Iterable[ValueShape], path: Path, faults: list[Fault], *, lower: bool
) -> tuple[ValueMatch, ...]:
    """Conditions on headers (names in `lower` case) or on query parameters. Of equal names the first one
    counts."""
    found: dict[str, ValueMatch] = {}
    for at, shape in enumerate(shapes):
        if shape.type not in ("Exact", "RegularExpression"):
            faults.append(Fault((*path, at, "type"), f"{shape.type!r} is not supported"))
        if lower and not TOKEN.fullmatch(shape.name):
            faults.append(Fault((*path, at, "name"), f"{shape.name[:80]!r} is not a header name"))
        name = shape.name.lower() if lower else shape.name
        regex = shape.type == "RegularExpression"
        if regex and (why := regex_fault(shape.value)):
            faults.append(Fault((*path, at, "value"), why))
        found.setdefault(name, ValueMatch(name, shape.value, regex))
    return tuple(found.values())
