"""A picker that options or a file name by host and port, instead of a Service: its addresses. Pure."""

from dataclasses import dataclass
from typing import Final

from epp_client.pool.endpoints import canonical_ip, endpoint_key
from epp_client.pool.inference_pool import EndpointPickerRef, FailureMode
from epp_client.pool.snapshot import PickerTarget

_KIND: Final = "Host"
"""The kind of such a reference. No InferencePool has it."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """The newest result of looking up the host of a picker."""

    ips: tuple[str, ...] = ()
    """The addresses. A failed lookup keeps those of the one before."""
    failure: str = ""
    """Why the newest lookup failed; empty if it did not."""


def host_ref(host: str, port: int, failure_mode: FailureMode) -> EndpointPickerRef:
    """The reference to a picker at an address or a name."""
    return EndpointPickerRef(host, port, failure_mode, kind=_KIND)


def is_host(ref: EndpointPickerRef) -> bool:
    """Whether it refers to a host, and not to a Service."""
    return ref.kind == _KIND


def host_to_look_up(ref: EndpointPickerRef | None) -> str | None:
    """The name of the picker's host; None if there is no picker, or it has an address, or a Service."""
    if ref is None or not is_host(ref) or canonical_ip(ref.name) is not None:
        return None
    return ref.name


def host_target(ref: EndpointPickerRef, looked_up: Lookup) -> PickerTarget:
    """The addresses of the picker at a host, or why there are none."""
    assert ref.port is not None
    ip = canonical_ip(ref.name)
    ips = looked_up.ips if ip is None else (ip,)
    addresses = tuple(sorted(endpoint_key(ip, ref.port) for ip in ips))
    problem = None if addresses else f"host {ref.name} has no address: {looked_up.failure}"
    return PickerTarget(addresses, ref.name, problem)
