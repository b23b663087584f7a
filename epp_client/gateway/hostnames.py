"""Hostnames of listeners and routes: which of them a request's hostname belongs to. Pure.

`*.example.com` has one or more labels in the place of `*`, and `*` alone is every hostname. Rules come from
the fields `hostname` of a listener and `hostnames` of an HTTPRoute in the Gateway API.
"""

from collections.abc import Iterable, Iterator

ANY = "*"


def covers(pattern: str, hostname: str) -> bool:
    """Whether every hostname that `hostname` has is one that `pattern` has."""
    if pattern in (ANY, hostname):
        return True
    # A wildcard has at least one label, so a pattern does not have its own suffix.
    return pattern.startswith("*.") and hostname.endswith(pattern[1:])


def intersection(one: str, other: str) -> str | None:
    """The hostnames that both have, which is one of the two; None: there are none."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def intersections(listener: str, hostnames: Iterable[str]) -> tuple[str, ...]:
    """The hostnames of a route that a listener serves. A route without hostnames has those of the
    listener."""
    found = [intersection(listener, name) for name in tuple(hostnames) or (listener,)]
    return tuple(dict.fromkeys(name for name in found if name is not None))


def patterns(hostname: str) -> Iterator[str]:
    """All patterns that cover `hostname`, the most specific first: itself, its wildcards, `*`."""
    yield hostname
    if hostname == ANY:
        return
    rest = hostname.removeprefix("*.")
    if rest == hostname:
        _, _, rest = hostname.partition(".")
    else:
        _, _, rest = rest.partition(".")
    while rest:
        yield f"*.{rest}"
        _, _, rest = rest.partition(".")
    yield ANY


def owner(hostname: str, listeners: Iterable[str]) -> str | None:
    """The most specific hostname of a listener that covers `hostname`: a request belongs to one listener
    alone."""
    known = frozenset(listeners)
    return next((pattern for pattern in patterns(hostname) if pattern in known), None)
