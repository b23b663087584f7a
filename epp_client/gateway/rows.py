"""A Gateway's table as rows of text, for people and for JSON. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from epp_client.gateway.table import (
    Backend,
    Forward,
    GatewayTable,
    HeaderChange,
    Match,
    PathChange,
    PathKind,
    Redirect,
    ValueMatch,
)
from epp_client.pool.inference_pool import PoolName


class Row(NamedTuple):
    """One entry of the table. Envoy takes the first one that matches among those of a listener and a
    hostname."""

    listener: str
    """`http 80`; `https 443` has the name of the listener as well."""
    hostname: str
    match: str
    """`GET /chat`, `/exact (exact)`, `/chat x-model=a ?user=b`."""
    to: str
    """`default/llama`, `default/a 70 %, default/b 30 %`, `redirect 301 https://b.io`, `500`."""
    source: str
    """`HTTPRoute default/chat rules[0]`."""


def table_rows(table: GatewayTable) -> Iterator[Row]:
    """All rows, in the order in which Envoy compares them."""
    for name, routes in table.routes.items():
        protocol, port, *listener = name.split("/", 2)
        where = " ".join((protocol, port, *listener))
        for host in routes.hosts:
            for entry in host.entries:
                to = [_action(entry.action), *_changes("request", entry.request_headers)]
                to += _changes("response", entry.response_headers)
                yield Row(where, host.hostname, _match(entry.match), "; ".join(to), entry.source)


def _match(match: Match) -> str:
    kind = match.path.kind
    path = match.path.value
    if kind is not PathKind.PREFIX:
        path += " (exact)" if kind is PathKind.EXACT else " (regex)"
    parts = [match.method, path]
    parts += [_value(one) for one in match.headers]
    parts += [f"?{_value(one)}" for one in match.query]
    return " ".join(filter(None, parts))


def _value(one: ValueMatch) -> str:
    return f"{one.name}{'~' if one.regex else '='}{one.value}"


def _action(action: Forward | Redirect) -> str:
    if isinstance(action, Redirect):
        port = f":{action.port}" if action.port is not None else ""
        host = f"{action.hostname or '…'}{port}"
        scheme = f"{action.scheme}:" if action.scheme else ""
        where = f"{scheme}//{host}" if scheme or action.hostname or port else ""
        return " ".join(["redirect", str(action.status), "".join((where, *_path(action.path)))])
    total = sum(backend.weight for backend in action.backends)
    shares = [_share(backend, total, len(action.backends)) for backend in action.backends]
    parts = [", ".join(shares) or "500"]
    if action.hostname:
        parts.append(f"host {action.hostname}")
    if action.path is not None:
        parts.append(f"path {''.join(_path(action.path))}")
    parts += [
        f"mirror {mirror.service} {100 * mirror.numerator / mirror.denominator:g} %"
        for mirror in action.mirrors
    ]
    if action.timeout is not None:
        parts.append(f"timeout {action.timeout:g} s" if action.timeout else "no timeout")
    if action.backend_timeout:
        parts.append(f"{action.backend_timeout:g} s a try")
    return "; ".join(parts)


def _share(backend: Backend, total: int, count: int) -> str:
    target = backend.target
    name = "500" if target is None else str(target)
    if isinstance(target, PoolName):
        name = f"pool {name}"
    elif target is not None:
        name = f"service {name}"
    return name if count == 1 else f"{name} {100 * backend.weight / total:.3g} %"


def _path(path: PathChange | None) -> tuple[str, ...]:
    if path is None:
        return ()
    return (path.value,) if path.whole else (f"{path.value.rstrip('/')}/…",)


def _changes(what: str, change: HeaderChange) -> Iterator[str]:
    for verb, names in (
        ("set", [name for name, _ in change.set]),
        ("add", [name for name, _ in change.add]),
        ("remove", change.remove),
    ):
        if names:
            yield f"{verb} {what} header {', '.join(names)}"
