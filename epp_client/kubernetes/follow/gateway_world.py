"""Collects the objects that a Gateway refers to from their reflectors. Decides nothing."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from epp_client.gateway.table import Certificate, Forward, GatewayTable, SecretName
from epp_client.gateway.world import GatewayWorld, Object, References
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.follow.gateway_queries import (
    NAMESPACES,
    by_service,
    config_map_query,
    secret_query,
    service_queries,
)
from epp_client.kubernetes.follow.queries import Query
from epp_client.kubernetes.follow.reflector import Reflector
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.service_addresses import Place

Find = Callable[[Query], Reflector[Any] | None]
"""The reflector of a query; None before it is followed."""


UNKNOWN = Certificate(b"", b"")
"""The certificate of a Secret that the API server has not answered for. Its listener is served: Envoy keeps
the certificate that it has, or waits."""


class Own(NamedTuple):
    """The objects of a world that nothing has to refer to."""

    gateway: Object
    routes: Sequence[Object]
    grants: Sequence[Object]
    pools: Collection[PoolName]


def world_of(own: Own, references: References, find: Find) -> GatewayWorld:
    """The world of a Gateway, with what is known of `references`."""
    services, slices = _services(references, find)
    return GatewayWorld(
        own.gateway,
        own.routes,
        own.grants,
        own.pools,
        services,
        slices,
        secrets=_secrets(references, find),
        config_maps=_config_maps(references, find),
        namespaces=_namespaces(references, find),
    )


def with_known_certificates(table: GatewayTable) -> GatewayTable:
    """The table without the certificates that are not known."""
    if UNKNOWN not in table.certificates.values():
        return table
    known = {name: found for name, found in table.certificates.items() if found != UNKNOWN}
    return replace(table, certificates=known)


def pools_of(table: GatewayTable) -> set[PoolName]:
    """The pools that requests go to."""
    forwards = (entry.action for entry in table.entries() if isinstance(entry.action, Forward))
    targets = {backend.target for action in forwards for backend in action.backends}
    return {target for target in targets if isinstance(target, PoolName)}


def _services(
    references: References, find: Find
) -> tuple[dict[Place, Object], dict[Place, Sequence[Object]]]:
    services: dict[Place, Object] = {}
    slices: dict[Place, Sequence[Object]] = {}
    whole: dict[Query, Mapping[str, list[Object]]] = {}
    for place, queries in service_queries(references.services).items():
        found = find(queries.service)
        if found is not None and (service := found.objects.get(Key(*place))) is not None:
            services[place] = service
        if (found := find(queries.slices)) is None:
            continue
        if queries.slices.label_selector:
            slices[place] = [*found.objects.values()]
        else:
            if queries.slices not in whole:
                whole[queries.slices] = by_service(found.objects.values())
            slices[place] = whole[queries.slices].get(place[1], ())
    return services, slices


def _secrets(references: References, find: Find) -> dict[SecretName, Certificate | str]:
    secrets: dict[SecretName, Certificate | str] = {}
    for name in references.secrets:
        found = find(secret_query(name))
        if found is None or not found.answered:
            secrets[name] = UNKNOWN
        elif (secret := found.objects.get(Key(*name))) is not None:
            secrets[name] = secret
        elif found.failure is not None and not found.synced:
            secrets[name] = str(found.failure)
    return secrets


def _config_maps(references: References, find: Find) -> set[Place]:
    found = {place: find(config_map_query(place)) for place in references.config_maps}
    return {
        place
        for place, reflector in found.items()
        if reflector is not None and Key(*place) in reflector.objects
    }


def _namespaces(references: References, find: Find) -> dict[str, Mapping[str, str]]:
    found = find(NAMESPACES) if references.namespaces else None
    return {} if found is None else {key.name: labels for key, labels in found.objects.items()}
