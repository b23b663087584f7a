"""PodFacts: what pools and pickers ask about a Pod, read once out of its object. Pure.

A source of thousands of Pods keeps these instead of the objects: a tenth of the memory, and nothing to
parse again when another Pod changes.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from epp_client.pool.endpoints import canonical_ip
from epp_client.pool.inference_pool import ACTIVE_PORTS_ANNOTATION

Object = Mapping[str, Any]


class PodFacts(NamedTuple):
    """One Pod."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    ip: str | None
    """Its first address, in canonical spelling; None while it has none."""
    ready: bool
    active_ports: str | None
    """The annotation as it is written; None when absent."""
    named_ports: Mapping[str, int]
    """Its containers' TCP ports that have a name; those of native sidecars as well."""
    other_ips: tuple[str, ...] = ()
    """Its further addresses: dual stack."""

    @property
    def ips(self) -> tuple[str, ...]:
        """All of its addresses, the first one first."""
        return () if self.ip is None else (self.ip, *self.other_ips)

    def has(self, pairs: Iterable[tuple[str, str]]) -> bool:
        """Whether it carries every label of `pairs`."""
        return all(self.labels.get(key) == value for key, value in pairs)


def pod_facts(pod: Object) -> PodFacts:
    """Read a Pod. Its shape is that of the API (`shapes` checks it where it comes from files)."""
    metadata = pod.get("metadata") or {}
    ip, *others = _pod_ips(pod) or [None]
    return PodFacts(
        str(metadata.get("name", "")),
        str(metadata.get("namespace") or "default"),
        metadata.get("labels") or {},
        ip,
        is_ready(pod),
        (metadata.get("annotations") or {}).get(ACTIVE_PORTS_ANNOTATION),
        _named_ports(pod),
        tuple(filter(None, others)),
    )


def is_ready(pod: Object) -> bool:
    """Ready: its condition says so, and it neither terminates nor has ended."""
    status = pod.get("status") or {}
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return False
    if status.get("phase") in ("Succeeded", "Failed"):
        return False
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in status.get("conditions") or []
    )


def _pod_ips(pod: Object) -> list[str | None]:
    status = pod.get("status") or {}
    texts = [status.get("podIP"), *(entry.get("ip") for entry in status.get("podIPs") or [])]
    ips = (canonical_ip(text) for text in texts if text)
    return [*dict.fromkeys(ip for ip in ips if ip is not None)]


_NO_PORTS: Mapping[str, int] = {}


def _named_ports(pod: Object) -> Mapping[str, int]:
    found: dict[str, int] = {}
    spec = pod.get("spec") or {}
    # An init container that is restarted always runs beside the others: a native sidecar.
    sidecars = [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    for container in (*(spec.get("containers") or []), *sidecars):
        for port in container.get("ports") or []:
            if port.get("name") and (port.get("protocol") or "TCP") == "TCP":
                found.setdefault(port["name"], int(port["containerPort"]))
    return found or _NO_PORTS
