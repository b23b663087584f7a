"""The Gateways of manifests and what they refer to, as worlds to resolve. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError as PydanticError

from epp_client.gateway.certificates import read_certificate
from epp_client.gateway.shapes import GrantShape
from epp_client.gateway.table import GatewayName, SecretName
from epp_client.gateway.world import GatewayWorld
from epp_client.pool.problems import Fault
from epp_client.pool.resolve import World
from epp_client.pool.service_addresses import place_of, slices_by_service
from epp_client.pool.shapes import faults_of

Object = Mapping[str, Any]


def gateway_worlds(
    objects: Mapping[str, Sequence[Object]], world: World
) -> dict[GatewayName, GatewayWorld]:
    """A world for each Gateway. `objects` are those of `world.OTHERS` by kind, `world` is what the same
    manifests say about pools."""
    services = {place_of(one): one for one in world.services}
    slices = slices_by_service(world.slices)
    secrets = {SecretName(*place_of(one)): read_certificate(one) for one in objects["Secret"]}
    namespaces = _namespaces(objects)
    return {
        GatewayName(*place_of(gateway)): GatewayWorld(
            gateway,
            objects["HTTPRoute"],
            objects["ReferenceGrant"],
            world.pools.keys(),
            services,
            slices,
            world.pods,
            secrets,
            frozenset(place_of(one) for one in objects["ConfigMap"]),
            namespaces,
        )
        for gateway in objects["Gateway"]
    }


def grant_faults(grant: Object) -> list[Fault]:
    """The faults in the types of a ReferenceGrant."""
    try:
        GrantShape.model_validate(grant)
    except PydanticError as error:
        return faults_of(error)
    return []


def _namespaces(objects: Mapping[str, Iterable[Object]]) -> dict[str, Mapping[str, str]]:
    """Labels of namespaces. A namespace has its name as a label even if there is no object of it."""
    named = {place_of(one)[0] for one in objects["HTTPRoute"]}
    found: dict[str, Mapping[str, str]] = {
        name: {"kubernetes.io/metadata.name": name} for name in named
    }
    for one in objects["Namespace"]:
        name = place_of(one)[1]
        labels = (one.get("metadata") or {}).get("labels") or {}
        found[name] = {**labels, "kubernetes.io/metadata.name": name}
    return found
