"""The Gateways of manifests and what they refer to, as worlds to resolve. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError as PydanticError

from epp_client.gateway.certificates import read_certificate
from epp_client.gateway.shapes import GrantShape
from epp_client.gateway.table import GatewayName, SecretName
from epp_client.gateway.world import GatewayWorld, Place
from epp_client.pool.problems import Fault
from epp_client.pool.resolve import World
from epp_client.pool.shapes import faults_of

Object = Mapping[str, Any]


def gateway_worlds(
    objects: Mapping[str, Sequence[Object]], world: World
) -> dict[GatewayName, GatewayWorld]:
    """A world for each Gateway. `objects` are those of `world.OTHERS` by kind, `world` is what the same
    manifests say about pools."""
    services = {_place(one): one for one in world.services}
    slices: dict[Place, list[Object]] = {}
    for item in world.slices:
        labels = _metadata(item).get("labels") or {}
        name = labels.get("kubernetes.io/service-name")
        if name is not None:
            slices.setdefault((_place(item)[0], str(name)), []).append(item)
    secrets = {SecretName(*_place(one)): read_certificate(one) for one in objects["Secret"]}
    namespaces = _namespaces(objects)
    return {
        GatewayName(*_place(gateway)): GatewayWorld(
            gateway,
            objects["HTTPRoute"],
            objects["ReferenceGrant"],
            world.pools.keys(),
            services,
            slices,
            world.pods,
            secrets,
            frozenset(_place(one) for one in objects["ConfigMap"]),
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
    named = {_place(one)[0] for one in objects["HTTPRoute"]}
    found: dict[str, Mapping[str, str]] = {
        name: {"kubernetes.io/metadata.name": name} for name in named
    }
    for one in objects["Namespace"]:
        name = str(_metadata(one).get("name"))
        labels = _metadata(one).get("labels") or {}
        found[name] = {**labels, "kubernetes.io/metadata.name": name}
    return found


def _metadata(item: Object) -> Object:
    return item.get("metadata") or {}


def _place(item: Object) -> Place:
    metadata = _metadata(item)
    return str(metadata.get("namespace") or "default"), str(metadata.get("name"))
