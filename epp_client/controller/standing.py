"""What is said of a Gateway beside what its objects decide: its addresses, and whether it is programmed.
Pure."""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from epp_client.gateway.statuses import Condition
from epp_client.gateway.world import Object
from epp_client.kubernetes.status.gateway_merge import Address

MAX_ADDRESSES = 16
"""Entries of `status.addresses`."""


@dataclass(frozen=True, slots=True)
class Running:
    """What runs for a Gateway."""

    deployment: Object | None = None
    service: Object | None = None
    nodes: tuple[Object, ...] = ()
    """Nodes of the cluster; needed only for a Service of type NodePort."""
    problem: str = ""
    """Why an object cannot be applied; empty when all are."""


def addresses_of(running: Running) -> tuple[Address, ...]:
    """Where clients reach the Gateway."""
    service = running.service
    if service is None:
        return ()
    spec = service.get("spec") or {}
    match spec.get("type"):
        case "LoadBalancer":
            found = _of_load_balancer(service)
        case "NodePort":
            found = _of_nodes(running.nodes)
        case _:
            cluster = [one for one in spec.get("clusterIPs") or () if one != "None"]
            found = map(_ip, cluster)
    return tuple(dict.fromkeys(found))[:MAX_ADDRESSES]


def _of_load_balancer(service: Object) -> Iterator[Address]:
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    for one in ingress:
        if one.get("ip"):
            yield _ip(one["ip"])
        elif one.get("hostname"):
            yield Address("Hostname", str(one["hostname"]))


def _of_nodes(nodes: Iterable[Object]) -> Iterator[Address]:
    """The external addresses of the nodes, or the internal ones if there is no external one."""
    for kind in ("ExternalIP", "InternalIP"):
        found = [
            _ip(one["address"])
            for node in nodes
            for one in (node.get("status") or {}).get("addresses") or ()
            if one.get("type") == kind
        ]
        if found:
            yield from found
            return


def _ip(text: str) -> Address:
    return Address("IPAddress", str(ipaddress.ip_address(text)))


def not_programmed(running: Running) -> Condition | None:
    """Why a Gateway whose configuration is valid is not programmed; None if it is."""
    if running.problem:
        return Condition("Programmed", "False", "Pending", running.problem)
    deployment, service = running.deployment, running.service
    if deployment is None or service is None:
        return Condition("Programmed", "False", "Pending", "The objects are not created yet")
    metadata = deployment["metadata"]
    available = int((deployment.get("status") or {}).get("availableReplicas") or 0)
    if not available:
        name = f"{metadata.get('namespace')}/{metadata.get('name')}"
        text = f"Deployment {name} has no available replica"
        return Condition("Programmed", "False", "NoResources", text)
    if not addresses_of(running):
        place = f"{service['metadata'].get('namespace')}/{service['metadata'].get('name')}"
        text = f"Service {place} has no address"
        return Condition("Programmed", "False", "AddressNotAssigned", text)
    return None
