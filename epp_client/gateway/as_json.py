"""A resolved Gateway as JSON, for `/gateway` of the admin page and `epp-client routes -o json`. Pure."""

import json
from collections.abc import Iterator
from typing import Any

from epp_client.gateway.table import (
    Backend,
    Chain,
    Entry,
    GatewayTable,
    Match,
    PathChange,
    Redirect,
    Routes,
    ServicePort,
    ValueMatch,
)
from epp_client.gateway.world import GatewayResolution
from epp_client.pool.endpoints import endpoint_key
from epp_client.pool.inference_pool import PoolName


def pieces(resolution: GatewayResolution) -> Iterator[str]:
    """The JSON of a resolution in pieces, one for each hostname."""
    table = resolution.table
    head = json.dumps({"gateway": str(table.gateway), "listeners": _listeners(table)})
    yield f'{head[:-1]}, "routes": ['
    comma = ""
    for routes in table.routes.values():
        for row in _rows(routes):
            yield comma + row
            comma = ", "
    services = {
        str(port): [endpoint_key(ip, number) for ip, number in service.endpoints]
        for port, service in table.services.items()
    }
    problems = [str(problem) for problem in resolution.problems]
    yield f'], "services": {json.dumps(services)}, "problems": {json.dumps(problems)}}}'


def _rows(routes: Routes) -> Iterator[str]:
    for host in routes.hosts:
        rows = [
            {"routes": routes.name, "host": host.hostname, **describe(entry)}
            for entry in host.entries
        ]
        if rows:
            yield json.dumps(rows)[1:-1]


def describe(entry: Entry) -> dict[str, Any]:
    """One row: its match, where its requests go, and what it is from."""
    action = entry.action
    row: dict[str, Any] = {"match": _match(entry.match), "source": entry.source}
    if isinstance(action, Redirect):
        row["redirect"] = _redirect(action)
    else:
        row["backends"] = [_backend(backend) for backend in action.backends]
    return row


def _match(match: Match) -> dict[str, Any]:
    said: dict[str, Any] = {"path": f"{match.path.kind} {match.path.value}"}
    if match.method:
        said["method"] = match.method
    for name, values in (("headers", match.headers), ("query", match.query)):
        if values:
            said[name] = [_value(value) for value in values]
    return said


def _value(value: ValueMatch) -> str:
    return f"{value.name}{'~' if value.regex else '='}{value.value}"


def _backend(backend: Backend) -> dict[str, Any]:
    kind = {PoolName: "InferencePool ", ServicePort: "Service "}.get(type(backend.target), "")
    target = None if backend.target is None else f"{kind}{backend.target}"
    return {"target": target, "weight": backend.weight}


def _redirect(action: Redirect) -> dict[str, Any]:
    fields = {
        "status": action.status,
        "scheme": action.scheme,
        "hostname": action.hostname,
        "port": action.port,
        "path": _path(action.path),
    }
    return {name: value for name, value in fields.items() if value}


def _path(change: PathChange | None) -> str:
    if change is None:
        return ""
    return change.value if change.whole else f"{change.value}..."


def _listeners(table: GatewayTable) -> list[dict[str, Any]]:
    return [
        {"port": listener.port, "chains": [_chain(chain) for chain in listener.chains]}
        for listener in table.listeners
    ]


def _chain(chain: Chain) -> dict[str, Any]:
    certificates = [str(name) for name in chain.certificates]
    return {"hostname": chain.hostname, "routes": chain.routes, "certificates": certificates}
