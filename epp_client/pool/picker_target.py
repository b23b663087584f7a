"""Resolves a pool's `endpointPickerRef` to the addresses behind it, or to the reason why it has none.
Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from epp_client.pool.endpoints import canonical_ip, endpoint_key
from epp_client.pool.inference_pool import EndpointPickerRef
from epp_client.pool.pods import PodFacts
from epp_client.pool.snapshot import PickerTarget

Object = Mapping[str, Any]


def supported(ref: EndpointPickerRef) -> bool:
    """Whether it refers to a Service, the only supported kind."""
    return not ref.group and ref.kind == "Service"


def picker_target(
    ref: EndpointPickerRef,
    namespace: str,
    service: Object | None,
    slices: Sequence[Object],
    pods: Sequence[PodFacts] = (),
) -> PickerTarget:
    """The ready addresses behind the picker's Service port, or the problem.

    Without EndpointSlices the Service selects among `pods` of the namespace, as in a dump of Pods and
    Services.
    """
    name = f"Service {namespace}/{ref.name}"
    if not supported(ref):
        kind = f"{ref.group}/{ref.kind}" if ref.group else ref.kind
        return PickerTarget(problem=f"kind {kind} is not supported; only Service is", never=True)
    if service is None:
        return PickerTarget(problem=f"{name} does not exist")
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        text = f"{name} is of type ExternalName, which is not supported for a picker"
        return PickerTarget(problem=text, never=True)
    ports = [p for p in spec.get("ports") or [] if (p.get("protocol") or "TCP") == "TCP"]
    port = next((p for p in ports if p.get("port") == ref.port), None)
    if port is None:
        known = ", ".join(str(p.get("port")) for p in ports) or "none"
        text = f"{name} has no port {ref.port} for TCP; the ports are {known}"
        return PickerTarget(problem=text, never=True)
    server_name = f"{ref.name}.{namespace}.svc"
    if slices:
        addresses = _slice_addresses(slices, str(port.get("name") or ""))
    else:
        addresses = _selected_addresses(spec, port, pods)
    if not addresses:
        return PickerTarget((), server_name, f"{name} port {ref.port} has no ready address")
    return PickerTarget(tuple(sorted(addresses)), server_name)


def _slice_addresses(slices: Sequence[Object], port_name: str) -> set[str]:
    ready: set[str] = set()
    leaving: set[str] = set()
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
            found |= {endpoint_key(ip, number) for ip in ips if ip for number in ports}
    # Like kube-proxy, use serving but terminating endpoints if no other is ready.
    return ready or leaving


def _selected_addresses(spec: Object, port: Object, pods: Sequence[PodFacts]) -> set[str]:
    selector = spec.get("selector")
    if not selector:
        return set()
    target = port.get("targetPort") or port.get("port")
    found: set[str] = set()
    for pod in pods:
        if pod.ip is None or not pod.ready or not pod.has(selector.items()):
            continue
        number = target if isinstance(target, int) else pod.named_ports.get(str(target))
        if number is not None:
            found.add(endpoint_key(pod.ip, number))
    return found
