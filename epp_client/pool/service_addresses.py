"""Services as plain objects, and the addresses behind their ports: of EndpointSlices, or of selected Pods.
Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from epp_client.pool.endpoints import canonical_ip, endpoint_key
from epp_client.pool.pods import PodFacts

Object = Mapping[str, Any]


Place = tuple[str, str]
"""Namespace and name."""


def place_of(item: Object) -> Place:
    """Namespace and name of an object. Files may leave the namespace out."""
    metadata = item.get("metadata") or {}
    return str(metadata.get("namespace") or "default"), str(metadata.get("name"))


def slices_by_service(slices: Iterable[Object]) -> dict[Place, list[Object]]:
    """EndpointSlices by namespace and name of their Service."""
    found: dict[Place, list[Object]] = {}
    for item in slices:
        labels = (item.get("metadata") or {}).get("labels") or {}
        service = labels.get("kubernetes.io/service-name")
        if service is not None:
            found.setdefault((place_of(item)[0], str(service)), []).append(item)
    return found


class Address(NamedTuple):
    """An address that a Service forwards to."""

    ip: str
    port: int

    @property
    def key(self) -> str:
        """`ip:port`, or `[ip]:port` for IPv6."""
        return endpoint_key(self.ip, self.port)


def service_port(service: Object, number: int | None) -> Object | None:
    """The TCP port of the Service with this number; None if it has none."""
    return next((port for port in tcp_ports(service) if port.get("port") == number), None)


def tcp_ports(service: Object) -> list[Object]:
    """The Service's ports for TCP."""
    ports = (service.get("spec") or {}).get("ports") or []
    return [port for port in ports if (port.get("protocol") or "TCP") == "TCP"]


def ready_addresses(
    service: Object, port: Object, slices: Sequence[Object], pods: Sequence[PodFacts] = ()
) -> set[Address]:
    """The ready addresses behind a port of a Service.

    Without EndpointSlices the Service selects among `pods` of its namespace, as in a dump of Pods and
    Services.
    """
    if slices:
        return _slice_addresses(slices, str(port.get("name") or ""))
    return _selected_addresses(service.get("spec") or {}, port, pods)


def _slice_addresses(slices: Sequence[Object], port_name: str) -> set[Address]:
    ready: set[Address] = set()
    leaving: set[Address] = set()
    for item in slices:
        ports = [
            p["port"]
            for p in item.get("ports") or []
            if (p.get("name") or "") == port_name
            and (p.get("protocol") or "TCP") == "TCP"
            and p.get("port")
        ]
        for endpoint in item.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            # An unset `ready` means true, by the EndpointSlice API.
            if conditions.get("ready") is not False:
                found = ready
            elif conditions.get("serving") and conditions.get("terminating"):
                found = leaving
            else:
                continue
            ips = [canonical_ip(address) for address in endpoint.get("addresses") or []]
            found |= {Address(ip, number) for ip in ips if ip for number in ports}
    # Like kube-proxy, use serving but terminating endpoints if no other is ready.
    return ready or leaving


def _selected_addresses(spec: Object, port: Object, pods: Sequence[PodFacts]) -> set[Address]:
    selector = spec.get("selector")
    if not selector:
        return set()
    target = port.get("targetPort") or port.get("port")
    found: set[Address] = set()
    for pod in pods:
        if pod.ip is None or not pod.ready or not pod.has(selector.items()):
            continue
        number = target if isinstance(target, int) else pod.named_ports.get(str(target))
        if number is not None:
            found.add(Address(pod.ip, number))
    return found
