"""What is asked of an API server: the pools in scope, what a pool refers to, and what is kept of it. Pure.

Nothing here is wider than it has to be: the Pods of a selector, the one Service, its EndpointSlices.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from epp_client.kubernetes.client.resources import (
    ENDPOINT_SLICE,
    INFERENCE_POOL,
    POD,
    SERVICE,
    Resource,
)
from epp_client.kubernetes.follow.cache import Object
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.picker_target import supported
from epp_client.pool.pods import pod_facts


@dataclass(frozen=True, slots=True)
class Query:
    """What one list, and the watch after it, are about."""

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
    """Which InferencePools are followed: all of them when nothing is said."""

    namespaces: tuple[str, ...] = ()
    pools: tuple[PoolName, ...] = ()

    def queries(self) -> list[Query]:
        """What to ask for, so that RBAC need grant no more."""
        named = [
            Query(INFERENCE_POOL, pool.namespace, field_selector=f"metadata.name={pool.name}")
            for pool in self.pools
            if pool.namespace not in self.namespaces
        ]
        whole = [Query(INFERENCE_POOL, namespace) for namespace in self.namespaces]
        return [*whole, *named] or [Query(INFERENCE_POOL)]


def references(pool: InferencePool) -> tuple[Query, ...]:
    """What a pool refers to: its Pods; its picker's Service and EndpointSlices, if it has a picker."""
    namespace = pool.name.namespace
    labels = ",".join(f"{key}={value}" for key, value in pool.match_labels)
    pods = Query(POD, namespace, label_selector=labels)
    if pool.picker is None or not supported(pool.picker):
        return (pods,)
    name = pool.picker.name
    return (
        pods,
        Query(SERVICE, namespace, field_selector=f"metadata.name={name}"),
        Query(ENDPOINT_SLICE, namespace, label_selector=f"kubernetes.io/service-name={name}"),
    )


def kept(query: Query) -> Callable[[Object], Any]:
    """What makes of an object what is worth its memory."""
    return _KEPT[query.resource.kind]


def _pool(data: Object) -> Object:
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
    return {"ports": data.get("ports"), "endpoints": endpoints}


_KEPT: Mapping[str, Callable[[Object], Any]] = {
    INFERENCE_POOL.kind: _pool,
    POD.kind: pod_facts,
    SERVICE.kind: _service,
    ENDPOINT_SLICE.kind: _endpoint_slice,
}
