"""What the conditions of a Gateway and of its HTTPRoutes are to be, as values. Pure.

Types and reasons are those of `gateway.networking.k8s.io/v1`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from epp_client.gateway.table import GatewayName


class RouteName(NamedTuple):
    """The identity of an HTTPRoute."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Condition(NamedTuple):
    """One condition, without its times and its observedGeneration."""

    type: str
    status: str
    """`True`, `False` or `Unknown`."""
    reason: str
    message: str = ""


class ListenerStatus(NamedTuple):
    """The entry of one listener in a Gateway's `status.listeners`."""

    name: str
    supported_kinds: tuple[str, ...]
    """`HTTPRoute`, or nothing."""
    attached_routes: int
    conditions: tuple[Condition, ...]


class ParentStatus(NamedTuple):
    """The entry of one parentRef in an HTTPRoute's `status.parents`."""

    reference: Mapping[str, Any]
    """The parentRef as the route has it."""
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """The status of one Gateway, without its addresses, which only the shell knows."""

    gateway: GatewayName
    generation: int
    conditions: tuple[Condition, ...]
    """`Accepted`, and `Programmed` as far as the objects decide it."""
    listeners: tuple[ListenerStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """Our entries in the status of one HTTPRoute. Empty: remove those that there are."""

    generation: int
    parents: tuple[ParentStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Statuses:
    """The statuses that one Gateway is responsible for."""

    gateway: GatewayStatus
    routes: Mapping[RouteName, RouteStatus] = field(default_factory=dict)
    """The routes that refer to the Gateway. Others have no entry of it."""
