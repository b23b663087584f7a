"""The structure of Gateway API objects, as their CRDs have it. Pure.

Only fields that mean something to us. Objects from an API server have been validated by it; those of files
are validated here.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StrictInt, StrictStr
from pydantic.alias_generators import to_camel

from epp_client.pool.problems import Fault, Severity
from epp_client.pool.shapes import Raw, unknown_fields

GATEWAY_GROUP = "gateway.networking.k8s.io"


class Shape(Raw):
    """Fields are in camel case outside."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel)


MAX_IGNORED = 20
"""Fields of one object that are said to be ignored."""


def ignored_fields(shape: type[Shape], data: Mapping[str, Any]) -> tuple[Fault, ...]:
    """A warning for each field of `spec` that means nothing here: of a feature that is not supported, or
    misspelt."""
    found: list[Fault] = []
    for path, meant in unknown_fields(shape, data.get("spec")):
        hint = f"; did you mean {meant}?" if meant else ""
        text = f"is not supported and ignored{hint}"
        found.append(Fault(("spec", *path), text, Severity.WARNING))
    return tuple(found[:MAX_IGNORED])


def _port(value: int) -> int:
    if not 1 <= value <= 65535:
        raise ValueError(f"{value} is not in 1..65535")
    return value


Port = Annotated[StrictInt, AfterValidator(_port)]


_HOSTNAME = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def _hostname(value: str) -> str:
    if value and not _HOSTNAME.fullmatch(value.lower()):
        raise ValueError(f"{value[:80]!r} is not a hostname; write a.example.com or *.example.com")
    return value.lower()


Hostname = Annotated[StrictStr, AfterValidator(_hostname)]


class Metadata(Shape):
    """Of any object."""

    name: StrictStr
    namespace: StrictStr = "default"
    generation: StrictInt = 0
    creation_timestamp: Any = ""
    """A text in JSON; YAML files have a time."""


# --- Gateway ---


class LabelSelectorRequirement(Shape):
    """One of a selector's `matchExpressions`."""

    key: StrictStr
    operator: StrictStr
    values: list[StrictStr] = Field(default_factory=list)


class LabelSelector(Shape):
    """A selector of namespaces."""

    match_labels: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    match_expressions: list[LabelSelectorRequirement] = Field(default_factory=list)


class RouteNamespaces(Shape):
    """The namespaces whose routes may attach to a listener."""

    from_: StrictStr = Field("Same", alias="from")
    selector: LabelSelector = LabelSelector()


class RouteKind(Shape):
    """A kind of route."""

    group: StrictStr = GATEWAY_GROUP
    kind: StrictStr


class AllowedRoutes(Shape):
    """The routes that may attach to a listener."""

    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: list[RouteKind] = Field(default_factory=list)


class SecretReference(Shape):
    """A `certificateRef`."""

    group: StrictStr = ""
    kind: StrictStr = "Secret"
    name: StrictStr
    namespace: StrictStr = ""


class ListenerTls(Shape):
    """`tls` of a listener."""

    mode: StrictStr = "Terminate"
    certificate_refs: list[SecretReference] = Field(default_factory=list)


class ListenerShape(Shape):
    """One listener of a Gateway."""

    name: StrictStr
    port: Port
    protocol: StrictStr
    hostname: Hostname = ""
    allowed_routes: AllowedRoutes = AllowedRoutes()
    tls: ListenerTls | None = None


class ParametersReference(Shape):
    """`infrastructure.parametersRef`."""

    group: StrictStr = ""
    kind: StrictStr
    name: StrictStr


class Infrastructure(Shape):
    """What the Gateway's own objects are like. Labels and annotations are for the controller."""

    labels: Any = None
    annotations: Any = None
    parameters_ref: ParametersReference | None = None


class GatewaySpec(Shape):
    """`spec` of a Gateway."""

    gateway_class_name: StrictStr = ""
    listeners: list[ListenerShape] = Field(default_factory=list)
    infrastructure: Infrastructure = Infrastructure()


class GatewayShape(Shape):
    """A Gateway."""

    metadata: Metadata
    spec: GatewaySpec


# --- HTTPRoute ---


class ParentReference(Shape):
    """A `parentRef`."""

    group: StrictStr = GATEWAY_GROUP
    kind: StrictStr = "Gateway"
    name: StrictStr
    namespace: StrictStr = ""
    section_name: StrictStr = ""
    port: StrictInt | None = None


class PathShape(Shape):
    """`path` of a match."""

    type: StrictStr = "PathPrefix"
    value: StrictStr = "/"


class ValueShape(Shape):
    """A header or a query parameter of a match."""

    type: StrictStr = "Exact"
    name: StrictStr
    value: StrictStr


class MatchShape(Shape):
    """One of a rule's matches."""

    path: PathShape = PathShape()
    method: StrictStr = ""
    headers: list[ValueShape] = Field(default_factory=list)
    query_params: list[ValueShape] = Field(default_factory=list)


class HeaderShape(Shape):
    """A header of a filter."""

    name: StrictStr
    value: StrictStr


class HeaderFilter(Shape):
    """A RequestHeaderModifier or a ResponseHeaderModifier."""

    set: list[HeaderShape] = Field(default_factory=list)
    add: list[HeaderShape] = Field(default_factory=list)
    remove: list[StrictStr] = Field(default_factory=list)


class PathModifier(Shape):
    """`path` of a redirect or a rewrite."""

    type: StrictStr
    replace_full_path: StrictStr = ""
    replace_prefix_match: StrictStr = ""


class RedirectFilter(Shape):
    """A RequestRedirect."""

    scheme: StrictStr = ""
    hostname: Hostname = ""
    path: PathModifier | None = None
    port: Port | None = None
    status_code: StrictInt = 302


class RewriteFilter(Shape):
    """A URLRewrite."""

    hostname: Hostname = ""
    path: PathModifier | None = None


class BackendReference(Shape):
    """What a request goes to."""

    group: StrictStr = ""
    kind: StrictStr = "Service"
    name: StrictStr
    namespace: StrictStr = ""
    port: StrictInt | None = None


def _weight(value: int) -> int:
    if not 0 <= value <= 1_000_000:
        raise ValueError(f"{value} is not in 0..1000000")
    return value


class Fraction(Shape):
    """A share."""

    numerator: StrictInt
    denominator: StrictInt = 100


class MirrorFilter(Shape):
    """A RequestMirror."""

    backend_ref: BackendReference
    percent: StrictInt | None = None
    fraction: Fraction | None = None


class FilterShape(Shape):
    """One filter."""

    type: StrictStr
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    request_redirect: RedirectFilter | None = None
    url_rewrite: RewriteFilter | None = Field(None, alias="urlRewrite")
    request_mirror: MirrorFilter | None = None


class WeightedBackend(BackendReference):
    """A `backendRef` of a rule."""

    weight: Annotated[StrictInt, AfterValidator(_weight)] = 1
    filters: list[FilterShape] = Field(default_factory=list)


class Timeouts(Shape):
    """`timeouts` of a rule."""

    request: StrictStr = ""
    backend_request: StrictStr = ""


class RuleShape(Shape):
    """One rule."""

    name: StrictStr = ""
    matches: list[MatchShape] = Field(default_factory=lambda: [MatchShape()])
    filters: list[FilterShape] = Field(default_factory=list)
    backend_refs: list[WeightedBackend] = Field(default_factory=list)
    timeouts: Timeouts = Timeouts()


class RouteSpec(Shape):
    """`spec` of an HTTPRoute."""

    parent_refs: list[ParentReference] = Field(default_factory=list)
    hostnames: list[Hostname] = Field(default_factory=list)
    rules: list[RuleShape] = Field(default_factory=lambda: [RuleShape()])


class RouteShape(Shape):
    """An HTTPRoute."""

    metadata: Metadata
    spec: RouteSpec = RouteSpec()


# --- ReferenceGrant ---


class GrantFrom(Shape):
    """Who may refer."""

    group: StrictStr
    kind: StrictStr
    namespace: StrictStr


class GrantTo(Shape):
    """To what. Without a name: to every object of the kind."""

    group: StrictStr
    kind: StrictStr
    name: StrictStr = ""


class GrantSpec(Shape):
    """`spec` of a ReferenceGrant."""

    from_: list[GrantFrom] = Field(alias="from")
    to: list[GrantTo]


class GrantShape(Shape):
    """A ReferenceGrant."""

    metadata: Metadata
    spec: GrantSpec
