"""EndpointTable: the `ip:port` members of one pool at one moment. Immutable; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple


class Endpoint(NamedTuple):
    """One `podIP:port` of a pool."""

    key: str
    """`ip:port`, or `[ip]:port` for IPv6, in canonical spelling."""
    ip: str
    port: int
    pod: str
    ready: bool = True
    """False while draining: still a valid pick and in EDS, never a local pick or in a subset hint."""
    since: int = 0
    """Generation of the table that first had this endpoint."""


@dataclass(frozen=True, slots=True)
class EndpointTable:
    """Members by key. `generation` moves whenever what Envoy must know of has changed."""

    by_key: Mapping[str, Endpoint] = field(default_factory=lambda: MappingProxyType({}))
    ready: tuple[Endpoint, ...] = ()
    """Members that are not draining, in a stable order."""
    generation: int = 0
