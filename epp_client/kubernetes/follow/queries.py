"""The queries for the pools in scope and the objects that they refer to, and the parts of the objects that
are stored. Pure.

Queries are as narrow as possible: the Pods of a selector, one Service, its EndpointSlices.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from epp_client.gateway.certificates import read_certificate
from epp_client.kubernetes.client.resources import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    GATEWAY,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    INFERENCE_POOL,
    NAMESPACE,
    POD,
    REFERENCE_GRANT,
    SECRET,
    SERVICE,
    Resource,
)
from epp_client.kubernetes.follow.cache import Object
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.picker_target import supported
from epp_client.pool.pods import pod_facts

SERVICE_NAME = "kubernetes.io/service-name"
"""Label of an EndpointSlice: the name of its Service."""


@dataclass(frozen=True, slots=True)
class Query:
    """The objects that one list and its watch select."""

    resource: Resource
    namespace: str | None = None
    """None: all namespaces."""
    label_selector: str = ""
    field_selector: str = ""

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        which = ", ".join(filter(None, (self.label_selector, self.field_selector)))
        return f"{self.resource}{where}{f' ({which})' if which else ''}"


@dataclass(frozen=True, slots=True)
class Scope:
    """The InferencePools to follow; all of them by default."""

    namespaces: tuple[str, ...] = ()
    pools: tuple[PoolName, ...] = ()

    def queries(self) -> list[Query]:
        """The queries for the pools in scope. RBAC need not grant more than these."""
        named = [
            Query(INFERENCE_POOL, pool.namespace, field_selector=f"metadata.name={pool.name}")
            for pool in self.pools
            if pool.namespace not in self.namespaces
        ]
        whole = [Query(INFERENCE_POOL, namespace) for namespace in self.namespaces]
        return [*whole, *named] or [Query(INFERENCE_POOL)]

    def everywhere(self, resource: Resource, *more: str) -> list[Query]:
        """The queries for all objects of a kind in the namespaces of the pools, and in those of `more`."""
        named = (pool.namespace for pool in self.pools)
        namespaces = [*dict.fromkeys([*self.namespaces, *named])]
        if not namespaces:
            return [Query(resource)]
        return [Query(resource, namespace) for namespace in dict.fromkeys([*namespaces, *more])]


def references(pool: InferencePool) -> tuple[Query, ...]:
    """Queries for a pool's Pods, and for its picker's Service and EndpointSlices if it has a picker."""
    namespace = pool.name.namespace
    labels = ",".join(f"{key}={value}" for key, value in pool.match_labels)
    pods = Query(POD, namespace, label_selector=pool.selector or labels)
    if pool.picker is None or not supported(pool.picker):
        return (pods,)
    name = pool.picker.name
    namespace = pool.picker.namespace or namespace
    return (
        pods,
        Query(SERVICE, namespace, field_selector=f"metadata.name={name}"),
        Query(ENDPOINT_SLICE, namespace, label_selector=f"{SERVICE_NAME}={name}"),
    )


def kept(query: Query) -> Callable[[Object], Any]:
    """The function that reduces an object of `query` to what is stored of it."""
    return _KEPT[query.resource.kind]


def _whole(data: Object) -> Object:
    metadata = {k: v for k, v in (data.get("metadata") or {}).items() if k != "managedFields"}
    return {**data, "metadata": metadata}


def _service(data: Object) -> Object:
    spec = data.get("spec") or {}
    return {"spec": {key: spec.get(key) for key in ("type", "ports")}}


def _endpoint_slice(data: Object) -> Object:
    endpoints = [
        {"addresses": e.get("addresses"), "conditions": e.get("conditions")}
        for e in data.get("endpoints") or []
    ]
    labels = (data.get("metadata") or {}).get("labels") or {}
    return {
        "metadata": {"labels": {SERVICE_NAME: labels.get(SERVICE_NAME)}},
        "ports": data.get("ports"),
        "endpoints": endpoints,
    }


def _labels(data: Object) -> Mapping[str, str]:
    return dict((data.get("metadata") or {}).get("labels") or {})


_KEPT: Mapping[str, Callable[[Object], Any]] = {
    INFERENCE_POOL.kind: _whole,
    POD.kind: pod_facts,
    SERVICE.kind: _service,
    ENDPOINT_SLICE.kind: _endpoint_slice,
    GATEWAY.kind: _whole,
    GATEWAY_CLASS.kind: _whole,
    HTTP_ROUTE.kind: _whole,
    REFERENCE_GRANT.kind: _whole,
    NAMESPACE.kind: _labels,
    # That it exists is all that matters.
    CONFIG_MAP.kind: lambda _: {},
    # Nothing of a Secret but its certificate is kept.
    SECRET.kind: read_certificate,
}
