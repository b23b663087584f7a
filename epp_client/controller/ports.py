"""The ports of a Gateway's Pods: those of its listeners, and those that Envoy and the sidecar need beside
them. Pure.

A listener of the Gateway listens in the Pod at its own port, so ours make way for it.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from epp_client.gateway.world import Object

PROTOCOLS = ("HTTP", "HTTPS")
"""Protocols of listeners that Envoy gets."""
_SPARE = 9911
"""The first port that is tried in the place of one that a listener has."""


class OwnPorts(NamedTuple):
    """Ports that are not the Gateway's."""

    envoy_admin: int = 9901
    """On loopback alone."""
    sidecar_admin: int = 9902
    envoy_status: int = 9903


def listener_ports(gateway: Object) -> list[int]:
    """The ports of the listeners that can be served, sorted."""
    listeners = (gateway.get("spec") or {}).get("listeners") or ()
    return sorted({int(one["port"]) for one in listeners if one.get("protocol") in PROTOCOLS})


def own_ports(taken: Collection[int]) -> OwnPorts:
    """The ports beside those `taken`: the usual ones as far as they are free."""
    spare = _free(taken)
    return OwnPorts(*(port if port not in taken else next(spare) for port in OwnPorts()))


def _free(taken: Collection[int]) -> Iterator[int]:
    return (port for port in range(_SPARE, 65536) if port not in taken)
