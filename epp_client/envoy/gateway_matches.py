"""Envoy's RouteMatch of a match in a Gateway's table. Pure."""

from epp_client.envoy.pb.routes_pb2 import (
    HeaderMatcher,
    QueryParameterMatcher,
    RegexMatcher,
    RouteMatch,
    StringMatcher,
)
from epp_client.gateway.table import Match, PathKind, PathMatch, ValueMatch


def write_match(match: Match) -> RouteMatch:
    """All of its conditions."""
    made = _path(match.path)
    if match.method:
        method = StringMatcher(exact=match.method)
        made.headers.append(HeaderMatcher(name=":method", string_match=method))
    for header in match.headers:
        made.headers.append(HeaderMatcher(name=header.name, string_match=_value(header)))
    for one in match.query:
        made.query_parameters.append(QueryParameterMatcher(name=one.name, string_match=_value(one)))
    return made


def _path(path: PathMatch) -> RouteMatch:
    match path.kind:
        case PathKind.EXACT:
            return RouteMatch(path=path.value)
        case PathKind.REGEX:
            return RouteMatch(safe_regex=RegexMatcher(regex=path.value))
        case PathKind.PREFIX if path.value == "/":
            return RouteMatch(prefix="/")
        case PathKind.PREFIX:
            return RouteMatch(path_separated_prefix=path.value)


def _value(match: ValueMatch) -> StringMatcher:
    if match.regex:
        return StringMatcher(safe_regex=RegexMatcher(regex=match.value))
    return StringMatcher(exact=match.value)
