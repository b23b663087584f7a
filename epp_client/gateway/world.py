"""What a Gateway is resolved from, and what it refers to. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from epp_client.gateway.http_route import HttpRoute
from epp_client.gateway.statuses import RouteName, Statuses
from epp_client.gateway.table import Certificate, GatewayTable, SecretName
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.pods import PodFacts
from epp_client.pool.problems import Problem
from epp_client.pool.service_addresses import Place

if TYPE_CHECKING:
    # It imports this module.
    from epp_client.gateway.contribution import Kept

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GatewayWorld:
    """The objects of a Gateway at one moment, as JSON has them. An object that does not change should be
    the same object in the next world: what was read of it is kept."""

    gateway: Object
    routes: Sequence[Object] = ()
    """HTTPRoutes; those that do not refer to the Gateway are left out of the result."""
    grants: Sequence[Object] = ()
    """ReferenceGrants."""
    pools: Collection[PoolName] = ()
    """InferencePools that exist."""
    services: Mapping[Place, Object] = field(default_factory=dict)
    slices: Mapping[Place, Sequence[Object]] = field(default_factory=dict)
    """EndpointSlices, by namespace and name of their Service."""
    pods: Sequence[PodFacts] = ()
    """Pods of Services that have no EndpointSlices, as in a dump of Pods and Services."""
    secrets: Mapping[SecretName, Certificate | str] = field(default_factory=dict)
    """The certificate of each Secret that exists, or why it cannot be used."""
    config_maps: Collection[Place] = ()
    """ConfigMaps that exist."""
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Labels of namespaces. Needed only if a listener allows routes by a selector."""


@dataclass(frozen=True, slots=True)
class References:
    """What the Gateway and its routes refer to, and therefore has to be watched."""

    services: frozenset[Place] = frozenset()
    secrets: frozenset[SecretName] = frozenset()
    """Only Secrets that a listener may refer to: its own namespace's, or with a ReferenceGrant."""
    config_maps: frozenset[Place] = frozenset()
    namespaces: bool = False
    """Whether labels of namespaces are needed."""


@dataclass(frozen=True, slots=True)
class GatewayResolution:
    """What is served for a Gateway, and what is said about it."""

    table: GatewayTable
    statuses: Statuses
    references: References
    problems: tuple[Problem, ...] = ()
    read: Mapping[RouteName, tuple[Object, HttpRoute]] = field(default_factory=dict, repr=False)
    """Each HTTPRoute with what was read of it, for the next resolution."""
    kept: "Kept | None" = field(default=None, repr=False, compare=False)
    """What its routes contributed, for the next resolution."""
