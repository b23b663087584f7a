"""Merges the routes of listeners into virtual hosts, in the order of precedence. Pure.

Envoy chooses one virtual host by the hostname of a request and stays there, so that the virtual host of a
hostname has the routes of all less specific ones as well.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from epp_client.gateway.hostnames import owner, patterns
from epp_client.gateway.http_route import HttpRoute
from epp_client.gateway.table import Entry, Host, Match, PathKind

_RANK = {PathKind.EXACT: 0, PathKind.REGEX: 1, PathKind.PREFIX: 2}


class Candidate(NamedTuple):
    """An entry with its precedence among those of one hostname: the smallest is first."""

    precedence: tuple[object, ...]
    entry: Entry


def candidate(route: HttpRoute, rule: int, match: int, entry: Entry) -> Candidate:
    """The entry of a match. The order is that of the field `matches` of an HTTPRoute's rule; between equal
    matches the older route wins, then its name, then the order within the route."""
    order = (route.created, route.name, rule, match)
    return Candidate((*_precedence(entry.match), *order), entry)


def _precedence(match: Match) -> tuple[object, ...]:
    path = match.path
    return (
        _RANK[path.kind],
        -len(path.value),
        not match.method,
        -len(match.headers),
        -len(match.query),
    )


Rows = Mapping[str, Iterable[Candidate]]
"""Candidates by hostname, of one listener."""


def build_hosts(listeners: Mapping[str, Rows]) -> tuple[Host, ...]:
    """The virtual hosts of listeners that share a port, given by their hostname.

    A request belongs to the listener with the most specific hostname alone, so each listener has a virtual
    host of its own hostname, which may be empty.
    """
    ordered = {
        hostname: {
            name: [one.entry for one in sorted(rows, key=lambda one: one.precedence)]
            for name, rows in by_name.items()
        }
        for hostname, by_name in listeners.items()
    }
    names = dict.fromkeys(name for hostname, rows in ordered.items() for name in (hostname, *rows))
    hosts: list[Host] = []
    for name in sorted(names):
        owned_by = owner(name, ordered)
        if owned_by is None:
            continue
        found = tuple(dict.fromkeys(_entries(name, ordered[owned_by])))
        if found or len(ordered) > 1:
            hosts.append(Host(name, found))
    return tuple(hosts)


def _entries(hostname: str, rows: Mapping[str, list[Entry]]) -> Iterator[Entry]:
    """All entries that a request for `hostname` may have, those of the most specific hostname first."""
    for pattern in patterns(hostname):
        yield from rows.get(pattern, ())
