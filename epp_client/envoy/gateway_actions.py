"""Envoy's routes of one entry of a Gateway's table. Pure.

Literal texts are escaped where Envoy would read commands: `%` in header values, `\\` in substitutions.
"""

import re
from collections.abc import Iterable

from google.protobuf.wrappers_pb2 import UInt32Value

from epp_client.envoy.edge import Terms
from epp_client.envoy.gateway_matches import write_match
from epp_client.envoy.pb.routes_pb2 import (
    ClusterWeight,
    FractionalPercent,
    HeaderMatcher,
    HeaderValue,
    HeaderValueOption,
    RedirectAction,
    RegexMatchAndSubstitute,
    RegexMatcher,
    RequestMirrorPolicy,
    Route,
    RouteAction,
    RuntimeFractionalPercent,
    StringMatcher,
)
from epp_client.envoy.pool_clusters import cluster_name
from epp_client.envoy.route_parts import (
    EXT_PROC_FILTER,
    SERVICE_RETRIES,
    per_route,
    pool_routes,
    retry_policy,
    seconds,
)
from epp_client.envoy.service_clusters import service_cluster_name
from epp_client.gateway.table import (
    DEFAULT_PORTS,
    Backend,
    Entry,
    Forward,
    HeaderChange,
    Mirror,
    PathChange,
    PathKind,
    PathMatch,
    Redirect,
)
from epp_client.pool.inference_pool import PoolName

INVALID = "invalid-backend"
"""A cluster that does not exist: its requests get status 500."""
_NOT_FOUND_IS_500 = 2
_OVERWRITE = 2
_REDIRECTS = {301: 0, 302: 1, 303: 2, 307: 3, 308: 4}
_DENOMINATORS = {100: 0, 10_000: 1, 1_000_000: 2}


def encode(entry: Entry, hostname: str, terms: Terms) -> list[bytes]:
    """The Routes of an entry of the virtual host `hostname`, in order."""
    route = Route(name=entry.source, match=write_match(entry.match))
    _change_headers(route, entry.request_headers, entry.response_headers)
    action, path = entry.action, entry.match.path
    if isinstance(action, Redirect):
        return _redirects(route, action, path, hostname)
    if not action.backends:
        route.direct_response.status = 500
        return [route.SerializeToString()]
    route.route.CopyFrom(_forward(action, path, terms))
    return _to_backends(route, action, terms)


def _cluster(backend: Backend) -> str:
    match backend.target:
        case None:
            return INVALID
        case PoolName() as pool:
            return cluster_name(pool)
        case service:
            return service_cluster_name(service)


def _to_backends(route: Route, action: Forward, terms: Terms) -> list[bytes]:
    pools = [b.target for b in action.backends if isinstance(b.target, PoolName)]
    only = action.backends[0]
    if len(action.backends) == 1 and (only.request_headers, only.response_headers) == _NO_CHANGES:
        route.route.cluster = _cluster(only)
        if pools:
            _enable(route, pools[0], terms)
    else:
        # The sidecar is asked for the cluster that was chosen, if it is a pool.
        weighted = route.route.weighted_clusters.clusters
        weighted.extend(_weighted(backend, terms) for backend in action.backends)
    if action.backend_timeout is not None:
        route.route.retry_policy.per_try_timeout.CopyFrom(seconds(action.backend_timeout))
    if pools:
        return pool_routes(route, terms)
    route.route.retry_policy.MergeFrom(retry_policy(SERVICE_RETRIES))
    return [route.SerializeToString()]


def _weighted(backend: Backend, terms: Terms) -> ClusterWeight:
    made = ClusterWeight(name=_cluster(backend), weight=UInt32Value(value=backend.weight))
    _change_headers(made, backend.request_headers, backend.response_headers)
    if isinstance(backend.target, PoolName):
        _enable(made, backend.target, terms)
    return made


def _enable(route: Route | ClusterWeight, pool: PoolName, terms: Terms) -> None:
    route.typed_per_filter_config[EXT_PROC_FILTER].CopyFrom(per_route(pool, terms))


_NO_CHANGES = (HeaderChange(), HeaderChange())


def _change_headers(
    route: Route | ClusterWeight, request: HeaderChange, response: HeaderChange
) -> None:
    route.request_headers_to_add.extend(_to_add(request))
    route.request_headers_to_remove.extend(filter(_modifiable, request.remove))
    route.response_headers_to_add.extend(_to_add(response))
    route.response_headers_to_remove.extend(filter(_modifiable, response.remove))


def _to_add(change: HeaderChange) -> Iterable[HeaderValueOption]:
    for changes, append_action in ((change.set, _OVERWRITE), (change.add, 0)):
        for name, value in changes:
            if _modifiable(name):
                literal = HeaderValue(key=name, value=value.replace("%", "%%"))
                yield HeaderValueOption(header=literal, append_action=append_action)


def _modifiable(name: str) -> bool:
    """Envoy rejects all routes if one changes another header in this way."""
    return not name.startswith(":") and name.lower() != "host"


def _forward(action: Forward, path: PathMatch, terms: Terms) -> RouteAction:
    timeout = terms.request_timeout if action.timeout is None else action.timeout
    made = RouteAction(
        timeout=seconds(timeout),
        idle_timeout=seconds(terms.idle_timeout),
        cluster_not_found_response_code=_NOT_FOUND_IS_500,
        host_rewrite_literal=action.hostname,
        request_mirror_policies=map(_mirror, action.mirrors),
    )
    if action.path is None:
        return made
    match new_path(path, action.path):
        case str() as prefix:
            made.prefix_rewrite = prefix
        case RegexMatchAndSubstitute() as regex:
            made.regex_rewrite.CopyFrom(regex)
    return made


def _mirror(mirror: Mirror) -> RequestMirrorPolicy:
    share = FractionalPercent(
        numerator=mirror.numerator, denominator=_DENOMINATORS[mirror.denominator]
    )
    return RequestMirrorPolicy(
        cluster=service_cluster_name(mirror.service),
        runtime_fraction=RuntimeFractionalPercent(default_value=share),
        disable_shadow_host_suffix_append=True,
    )


def new_path(match: PathMatch, change: PathChange) -> str | RegexMatchAndSubstitute | None:
    """How the path changes: a `prefix_rewrite`, a `regex_rewrite`, or not at all. Envoy applies both to the
    path without the query."""
    if change.whole or match.kind is not PathKind.PREFIX:
        return _substitute("^.*$", change.value)
    # `/xyz/` is as `/xyz`, and `/` as nothing.
    value = change.value.rstrip("/")
    if match.value == "/":
        return f"{value}/" if value else None
    if value:
        return value
    # The slash after the prefix becomes the root; without one, the root is added.
    return _substitute(f"^{re.escape(match.value)}/?", "/")


def _substitute(pattern: str, value: str) -> RegexMatchAndSubstitute:
    literal = value.replace("\\", "\\\\")
    return RegexMatchAndSubstitute(pattern=RegexMatcher(regex=pattern), substitution=literal)


def _redirects(route: Route, action: Redirect, path: PathMatch, hostname: str) -> list[bytes]:
    route.redirect.CopyFrom(_redirect(action, path))
    default = DEFAULT_PORTS.get(action.scheme)
    if action.port is not None and action.port != default:
        route.redirect.port_redirect = action.port
    elif not action.hostname and "*" not in hostname:
        # Else Envoy would keep a port of the Host header.
        route.redirect.host_redirect = hostname
    elif not action.hostname and default is not None:
        without_port = route.SerializeToString()
        route.match.headers.append(_WITH_PORT)
        route.redirect.port_redirect = default
        return [route.SerializeToString(), without_port]
    return [route.SerializeToString()]


_WITH_PORT = HeaderMatcher(
    name=":authority", string_match=StringMatcher(safe_regex=RegexMatcher(regex=".*:[0-9]+"))
)


def _redirect(action: Redirect, path: PathMatch) -> RedirectAction:
    made = RedirectAction(
        scheme_redirect=action.scheme,
        host_redirect=action.hostname,
        response_code=_REDIRECTS[action.status],
    )
    change = action.path
    if change is None:
        return made
    if change.whole or path.kind is not PathKind.PREFIX:
        made.path_redirect = change.value
        return made
    match new_path(path, change):
        case str() as prefix:
            made.prefix_rewrite = prefix
        case RegexMatchAndSubstitute() as regex:
            made.regex_rewrite.CopyFrom(regex)
    return made
