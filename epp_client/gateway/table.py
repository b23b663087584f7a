"""The route table of a Gateway as values: listeners, hostnames, matches, and where requests go. Pure.

`resolve` makes it from Kubernetes objects, and `epp_client.envoy` makes Envoy's configuration from it. All
values are hashable and small, so that encoded routes can be cached by value.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from epp_client.pool.inference_pool import AppProtocol, PoolName


class GatewayName(NamedTuple):
    """The identity of a Gateway."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePort(NamedTuple):
    """A port of a Service that routes refer to. Its requests go to the ready addresses behind it."""

    namespace: str
    name: str
    port: int
    """The Service's port, not its target port."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.port}"


class SecretName(NamedTuple):
    """A Secret of type kubernetes.io/tls."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class PathKind(StrEnum):
    """How a path is compared."""

    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


class PathMatch(NamedTuple):
    """A condition on the path, without its query."""

    kind: PathKind = PathKind.PREFIX
    value: str = "/"
    """A prefix is compared by elements: `/a` has `/a` and `/a/b`, not `/ab`. It has no trailing slash,
    except `/` alone."""


class ValueMatch(NamedTuple):
    """A condition on a header or a query parameter."""

    name: str
    """Header names are in lower case."""
    value: str
    regex: bool = False
    """Whether `value` is a regular expression (RE2) for the whole value."""


class Match(NamedTuple):
    """One HTTPRouteMatch: all of its conditions have to be true."""

    path: PathMatch = PathMatch()
    method: str = ""
    """Empty: any."""
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()


class HeaderChange(NamedTuple):
    """A RequestHeaderModifier or ResponseHeaderModifier: name and value pairs."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


UNCHANGED = HeaderChange()


class PathChange(NamedTuple):
    """A new path."""

    value: str
    whole: bool
    """True: `value` replaces the whole path. False: it replaces the matched prefix."""


DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
"""By scheme. A URL does not write them."""


class Redirect(NamedTuple):
    """A RequestRedirect. Empty fields keep what the request has."""

    status: int = 302
    scheme: str = ""
    hostname: str = ""
    port: int | None = None
    """The port of the new URL. None: the default port of its scheme, which is not written."""
    path: PathChange | None = None


class Backend(NamedTuple):
    """One backendRef with its share of the requests."""

    target: PoolName | ServicePort | None
    """None: the reference is not valid, and its share of the requests gets status 500."""
    weight: int = 1
    request_headers: HeaderChange = UNCHANGED
    response_headers: HeaderChange = UNCHANGED


class Mirror(NamedTuple):
    """A RequestMirror: copies of requests, whose responses are dropped."""

    service: ServicePort
    numerator: int = 100
    denominator: int = 100
    """100, 10 000 or 1 000 000, as Envoy has them."""


class Forward(NamedTuple):
    """Requests go to backends, by weight."""

    backends: tuple[Backend, ...] = ()
    """Those of a weight above 0. Empty: every request gets status 500."""
    hostname: str = ""
    """Replaces the Host header; empty keeps it."""
    path: PathChange | None = None
    mirrors: tuple[Mirror, ...] = ()
    timeout: float | None = None
    """Seconds for the whole request. 0: no limit. None: the default."""
    backend_timeout: float | None = None
    """Seconds for one try. None: as `timeout`."""


class Entry(NamedTuple):
    """One row of the table."""

    match: Match
    action: Forward | Redirect
    request_headers: HeaderChange = UNCHANGED
    response_headers: HeaderChange = UNCHANGED
    source: str = ""
    """Where it is from: `HTTPRoute default/chat rules[0]`."""


class Host(NamedTuple):
    """What requests for a hostname are compared with, in this order. The first match decides; without one
    the response is 404."""

    hostname: str
    """`a.example.com`, `*.example.com` (one or more labels) or `*`."""
    entries: tuple[Entry, ...]


class Routes(NamedTuple):
    """The routes of one port, or of one HTTPS listener: one RouteConfiguration of Envoy. Envoy takes the
    most specific hostname of a request and does not look at others."""

    name: str
    hosts: tuple[Host, ...]


class Chain(NamedTuple):
    """How connections of one server name (SNI) are served."""

    routes: str
    """Name of its `Routes`."""
    hostname: str = "*"
    """Server names that it serves."""
    certificates: tuple[SecretName, ...] = ()
    """Empty: plaintext. Then it is the only chain of its port."""


class Listener(NamedTuple):
    """A port of the Gateway: one Listener of Envoy."""

    port: int
    chains: tuple[Chain, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """The content of a Secret of type kubernetes.io/tls."""

    chain: bytes
    """PEM, the leaf first."""
    key: bytes = field(repr=False)
    """PEM."""


@dataclass(frozen=True, slots=True)
class Service:
    """The ready addresses behind a ServicePort."""

    endpoints: tuple[tuple[str, int], ...] = ()
    """IP address and port of each."""
    app_protocol: AppProtocol = AppProtocol.HTTP


@dataclass(frozen=True, slots=True)
class GatewayTable:
    """All that Envoy serves for one Gateway."""

    gateway: GatewayName
    listeners: tuple[Listener, ...] = ()
    """By port."""
    routes: Mapping[str, Routes] = field(default_factory=dict)
    services: Mapping[ServicePort, Service] = field(default_factory=dict)
    """Every Service that `routes` refer to."""
    certificates: Mapping[SecretName, Certificate] = field(default_factory=dict)
    """Every Secret that `listeners` refer to."""

    def entries(self) -> Iterator[Entry]:
        """All rows."""
        return (
            entry
            for routes in self.routes.values()
            for host in routes.hosts
            for entry in host.entries
        )
