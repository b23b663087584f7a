"""Gateway API objects as JSON has them, and short ways to look at what becomes of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from epp_client.gateway.resolve import resolve_gateway
from epp_client.gateway.statuses import Condition, ListenerStatus, RouteName
from epp_client.gateway.table import Certificate, Entry, GatewayTable
from epp_client.gateway.world import GatewayResolution, GatewayWorld
from epp_client.pool.inference_pool import PoolName

Object = Mapping[str, Any]

POOL_REF = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"}
POOL = PoolName("default", "llama")
CERTIFICATE = Certificate(b"chain", b"key")


def listener(name: str = "http", port: Any = 80, protocol: Any = "HTTP", **more: Any) -> Object:
    return {"name": name, "port": port, "protocol": protocol, **more}


def tls(*secrets: str, **more: Any) -> Object:
    """`tls` of a listener."""
    return {"certificateRefs": [{"name": secret} for secret in secrets], **more}


def gateway(*listeners: Object, name: str = "front", generation: int = 1, **spec: Any) -> Object:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": "default", "generation": generation},
        "spec": {
            "gatewayClassName": "epp-client",
            "listeners": list(listeners) or [listener()],
            **spec,
        },
    }


def path(value: str, kind: str = "PathPrefix") -> Object:
    """A match on the path."""
    return {"path": {"type": kind, "value": value}}


def rule(*matches: Object, to: Sequence[Object] = (POOL_REF,), **more: Any) -> Object:
    found = {"backendRefs": list(to), **more}
    return {"matches": list(matches), **found} if matches else found


def route(
    *rules: Object,
    name: str = "chat",
    namespace: str = "default",
    hostnames: Sequence[str] = (),
    parents: Sequence[Object] = ({"name": "front"},),
    created: str = "2026-01-01T00:00:00Z",
    generation: int = 1,
) -> Object:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "generation": generation,
            "creationTimestamp": created,
        },
        "spec": {
            "parentRefs": list(parents),
            **({"hostnames": list(hostnames)} if hostnames else {}),
            "rules": list(rules) or [rule()],
        },
    }


def service(*ports: int, namespace: str = "default", **port_fields: Any) -> Object:
    return {"spec": {"ports": [{"port": port, **port_fields} for port in ports]}}


def slices(*addresses: str, port: int = 3000) -> Sequence[Object]:
    """EndpointSlices of a Service whose ports have no name."""
    return [
        {
            "ports": [{"port": port}],
            "endpoints": [{"addresses": [address]} for address in addresses],
        }
    ]


def grant(
    namespace: str, source: str, *, source_kind: str = "HTTPRoute", group: str = "", **to: str
) -> Object:
    """A ReferenceGrant in `namespace` for objects of the namespace `source`."""
    return {
        "metadata": {"name": "grant", "namespace": namespace},
        "spec": {
            "from": [
                {
                    "group": "gateway.networking.k8s.io",
                    "kind": source_kind,
                    "namespace": source,
                }
            ],
            "to": [{"group": group, **to}],
        },
    }


def resolve(
    *routes: Object,
    gateway: Object = gateway(),  # noqa: B008
    previous: GatewayResolution | None = None,
    **world: Any,
) -> GatewayResolution:
    world.setdefault("pools", [POOL])
    return resolve_gateway(GatewayWorld(gateway, list(routes), **world), previous)


def rows(table: GatewayTable, routes: str = "http/80", host: str = "*") -> list[Entry]:
    """The entries of a virtual host."""
    [found] = [one for one in table.routes[routes].hosts if one.hostname == host]
    return list(found.entries)


def said(
    found: GatewayResolution, name: str = "chat", namespace: str = "default", parent: int = 0
) -> dict[str, Condition]:
    """The conditions of an HTTPRoute, by type."""
    status = found.statuses.routes[RouteName(namespace, name)]
    return {condition.type: condition for condition in status.parents[parent].conditions}


def of_gateway(found: GatewayResolution) -> dict[str, Condition]:
    """The conditions of the Gateway, by type."""
    return {condition.type: condition for condition in found.statuses.gateway.conditions}


def of_listener(found: GatewayResolution, name: str = "http") -> ListenerStatus:
    """The status of a listener."""
    [status] = [one for one in found.statuses.gateway.listeners if one.name == name]
    return status


def reasons(status: ListenerStatus) -> dict[str, tuple[str, str]]:
    """Status and reason of a listener's conditions, by type."""
    return {one.type: (one.status, one.reason) for one in status.conditions}
