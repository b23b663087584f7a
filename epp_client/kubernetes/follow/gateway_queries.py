"""The queries for a Gateway and what it refers to, and where their objects are found. Pure.

Services and EndpointSlices are followed by name. Where a namespace has many of them, all of the namespace
are followed by two watches instead: each watch is a connection to the API server.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from epp_client.gateway.table import GatewayName, SecretName
from epp_client.gateway.world import Object, References
from epp_client.kubernetes.client.resources import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    GATEWAY,
    GATEWAY_CLASS,
    NAMESPACE,
    SECRET,
    SERVICE,
    Resource,
)
from epp_client.kubernetes.follow.queries import SERVICE_NAME, Query
from epp_client.kubernetes.follow.standing import class_name
from epp_client.pool.service_addresses import Place

MANY = 16
"""Services of one namespace from which on the whole namespace is followed."""


class ServiceQueries(NamedTuple):
    """The queries that have a Service and its EndpointSlices."""

    service: Query
    slices: Query


def gateway_query(name: GatewayName) -> Query:
    """The query for one Gateway."""
    return _named(GATEWAY, name.namespace, name.name)


def class_query(gateway: Object) -> Query:
    """The query for the GatewayClass of a Gateway object."""
    return _named(GATEWAY_CLASS, None, class_name(gateway))


def secret_query(secret: SecretName) -> Query:
    """The query for one Secret."""
    return _named(SECRET, secret.namespace, secret.name)


def config_map_query(place: Place) -> Query:
    """The query for one ConfigMap."""
    return _named(CONFIG_MAP, *place)


NAMESPACES = Query(NAMESPACE)


def service_queries(services: Iterable[Place]) -> dict[Place, ServiceQueries]:
    """The queries for each of `services`."""
    by_namespace: defaultdict[str, list[str]] = defaultdict(list)
    for namespace, name in services:
        by_namespace[namespace].append(name)
    return {
        (namespace, name): ServiceQueries(
            Query(SERVICE, namespace), Query(ENDPOINT_SLICE, namespace)
        )
        if len(names) >= MANY
        else ServiceQueries(
            _named(SERVICE, namespace, name),
            Query(ENDPOINT_SLICE, namespace, label_selector=f"{SERVICE_NAME}={name}"),
        )
        for namespace, names in by_namespace.items()
        for name in names
    }


def referred(references: References) -> Iterator[Query]:
    """All queries for what a Gateway and its routes refer to."""
    for queries in service_queries(references.services).values():
        yield from queries
    yield from map(secret_query, references.secrets)
    yield from map(config_map_query, references.config_maps)
    if references.namespaces:
        yield NAMESPACES


def by_service(slices: Iterable[Object]) -> Mapping[str, list[Object]]:
    """EndpointSlices of one namespace by the name of their Service."""
    found: defaultdict[str, list[Object]] = defaultdict(list)
    for data in slices:
        found[str(data["metadata"]["labels"][SERVICE_NAME])].append(data)
    return found


def _named(resource: Resource, namespace: str | None, name: str) -> Query:
    return Query(resource, namespace, field_selector=f"metadata.name={name}")
