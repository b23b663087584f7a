"""Finds the pools that the HTTPRoutes of a Gateway refer to, and the Gateway's verdict on the routes. Pure.

Nothing here judges a route. Whether it is accepted and its references are permitted is in the route's
status, which the Gateway's controller writes.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

from epp_client.gateway.table import GatewayName
from epp_client.pool.inference_pool import PoolName

GATEWAY_GROUP = "gateway.networking.k8s.io"
POOL_GROUP = "inference.networking.k8s.io"

Object = Mapping[str, Any]


class Verdict(Enum):
    """A Gateway's verdict on a route."""

    ACCEPTED = "accepted"
    PENDING = "pending"
    REJECTED = "rejected"


class RouteVerdict(NamedTuple):
    """A route that refers to a pool."""

    route: str
    """`namespace/name`."""
    verdict: Verdict
    why: str = ""
    """For a rejected route: the Gateway's reason and message."""


class _Attachment(NamedTuple):
    """A parentRef with its defaults. Each listener of a Gateway has its own verdict."""

    group: str
    kind: str
    namespace: str
    name: str
    section: str | None
    port: int | None


def references(
    routes: Iterable[Object], gateway: GatewayName
) -> dict[PoolName, tuple[RouteVerdict, ...]]:
    """The routes attached to `gateway`, sorted by name, for each pool that they refer to.

    A reference from another namespace counts once the Gateway has resolved the route's references,
    which requires a ReferenceGrant.
    A parentRef to a ListenerSet is not followed to its Gateway.
    """
    found: dict[PoolName, list[RouteVerdict]] = {}
    for route, namespace, attached in _attached(routes, gateway):
        name = f"{namespace}/{route['metadata'].get('name')}"
        verdict, why = _judged(route, namespace, attached, "Accepted")
        resolved, _ = _judged(route, namespace, attached, "ResolvedRefs")
        for pool in dict.fromkeys(_pools(route, namespace)):
            if pool.namespace == namespace or resolved is Verdict.ACCEPTED:
                found.setdefault(pool, []).append(RouteVerdict(name, verdict, why))
    return {
        pool: tuple(sorted(verdicts, key=lambda said: said.route))
        for pool, verdicts in found.items()
    }


def in_doubt(routes: Iterable[Object], gateway: GatewayName) -> frozenset[PoolName]:
    """The pools that a changed route refers to from another namespace, if the Gateway had resolved its
    references before the change and has not done so since."""
    found: set[PoolName] = set()
    for route, namespace, attached in _attached(routes, gateway):
        # Of generation 0 no verdict is an earlier one.
        earlier = {**route, "metadata": {**route["metadata"], "generation": 0}}
        now, before = (
            _judged(one, namespace, attached, "ResolvedRefs")[0] for one in (route, earlier)
        )
        if now is Verdict.PENDING and before is Verdict.ACCEPTED:
            found |= {pool for pool in _pools(route, namespace) if pool.namespace != namespace}
    return frozenset(found)


def _attached(
    routes: Iterable[Object], gateway: GatewayName
) -> Iterator[tuple[Object, str, list[_Attachment]]]:
    """The routes of the Gateway, with their namespaces and their parentRefs to it."""
    for route in routes:
        namespace = str(route["metadata"].get("namespace") or "default")
        attached = [
            ref
            for ref in _attachments((route.get("spec") or {}).get("parentRefs"), namespace)
            if (ref.group, ref.kind) == (GATEWAY_GROUP, "Gateway")
            and (ref.namespace, ref.name) == gateway
        ]
        if attached:
            yield route, namespace, attached


def _attachments(refs: Iterable[Object] | None, namespace: str) -> Iterator[_Attachment]:
    for ref in refs or ():
        yield _Attachment(
            str(ref.get("group", GATEWAY_GROUP)),
            str(ref.get("kind") or "Gateway"),
            str(ref.get("namespace") or namespace),
            str(ref.get("name")),
            ref.get("sectionName"),
            ref.get("port"),
        )


def _pools(route: Object, namespace: str) -> Iterator[PoolName]:
    for rule in (route.get("spec") or {}).get("rules") or ():
        for ref in rule.get("backendRefs") or ():
            if (ref.get("group"), ref.get("kind")) == (POOL_GROUP, "InferencePool"):
                yield PoolName(str(ref.get("namespace") or namespace), str(ref.get("name")))


def _judged(
    route: Object, namespace: str, attached: list[_Attachment], condition: str
) -> tuple[Verdict, str]:
    """The best verdict on the route's attachments: one accepting listener is enough.
    Verdicts on an earlier generation of the route do not count.
    """
    generation = route["metadata"].get("generation") or 0
    rejections: list[str] = []
    silent = set(attached)
    pending = False
    for parent in (route.get("status") or {}).get("parents") or ():
        (ref,) = _attachments([parent.get("parentRef") or {}], namespace)
        if ref not in attached:
            continue
        for said in parent.get("conditions") or ():
            if said.get("type") != condition:
                continue
            silent.discard(ref)
            if said.get("observedGeneration", generation) < generation:
                pending = True
            elif said.get("status") == "True":
                return Verdict.ACCEPTED, ""
            elif said.get("status") == "False":
                rejections.append(f"{said.get('reason')}: {said.get('message')}")
            else:
                pending = True
    if pending or silent:
        return Verdict.PENDING, ""
    return Verdict.REJECTED, rejections[0]
