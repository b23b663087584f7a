"""Resolves a pool's `endpointPickerRef` to the addresses behind it, or to the reason why it has none.
Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from epp_client.pool.inference_pool import EndpointPickerRef
from epp_client.pool.pods import PodFacts
from epp_client.pool.service_addresses import ready_addresses, service_port, tcp_ports
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
    port = service_port(service, ref.port)
    if port is None:
        known = ", ".join(str(p.get("port")) for p in tcp_ports(service)) or "none"
        text = f"{name} has no port {ref.port} for TCP; the ports are {known}"
        return PickerTarget(problem=text, never=True)
    server_name = f"{ref.name}.{namespace}.svc"
    addresses = ready_addresses(service, port, slices, pods)
    if not addresses:
        return PickerTarget((), server_name, f"{name} port {ref.port} has no ready address")
    return PickerTarget(tuple(sorted(address.key for address in addresses)), server_name)
