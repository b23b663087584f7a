"""Puts together what is said of several Gateways. Pure.

A route or a pool of several Gateways has an entry of each, in one status: they are written together.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from epp_client.gateway.statuses import Condition, GatewayStatus, RouteStatus
from epp_client.gateway.table import GatewayName
from epp_client.gateway.world import Object
from epp_client.kubernetes.client.resources import HTTP_ROUTE, INFERENCE_POOL, Resource
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.status.findings import Finding, PoolWanted
from epp_client.kubernetes.status.gateway_merge import (
    Address,
    GatewayWanted,
    RouteWanted,
    unprogrammed,
)
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.routes import GATEWAY_GROUP
from epp_client.kubernetes.status.subjects import NewStatus, Said, Subject, Wanted, generation
from epp_client.pool.inference_pool import PoolName


class Together(NamedTuple):
    """What several Gateways have to say in the status of one object."""

    parts: tuple[Wanted, ...]

    @property
    def generation(self) -> int:
        """See Wanted."""
        return self.parts[0].generation

    def merged(self, data: Object, now: str) -> NewStatus:
        """See Wanted."""
        status = dict(data.get("status") or {})
        written: dict[str, object] = {}
        changed, problem = False, None
        for part in self.parts:
            found = part.merged({**data, "status": status}, now)
            status.update(found.status)
            written.update(found.status)
            changed = changed or found.changed
            problem = problem or found.problem
        return NewStatus(written, changed, problem)

    def summary(self) -> str:
        """See Wanted."""
        return "; ".join(part.summary() for part in self.parts)


class RunWanted(NamedTuple):
    """The status of a Gateway that we run. Its addresses are ours: without any the old ones go."""

    wanted: GatewayWanted

    @property
    def generation(self) -> int:
        """See Wanted."""
        return self.wanted.generation

    def merged(self, data: Object, now: str) -> NewStatus:
        """See Wanted."""
        found = self.wanted.merged(data, now)
        if self.wanted.addresses or not (data.get("status") or {}).get("addresses"):
            return found
        return found._replace(status={**found.status, "addresses": []}, changed=True)

    def summary(self) -> str:
        """See Wanted."""
        return self.wanted.summary()


def run_wanted(
    status: GatewayStatus,
    addresses: tuple[Address, ...],
    programmed: Condition | None,
    parameters: str,
) -> RunWanted:
    """The status of a Gateway that we run. `programmed` is why it is not programmed, and `parameters` what
    is wrong with its parameters or its class; None and empty if there is nothing."""
    if parameters:
        accepted = Condition("Accepted", "False", "InvalidParameters", parameters)
        status = _replaced(status, accepted)
        programmed = Condition("Programmed", "False", "Invalid", parameters)
    if programmed is not None:
        status = unprogrammed(status, programmed)
    return RunWanted(GatewayWanted(status, addresses))


def _replaced(status: GatewayStatus, condition: Condition) -> GatewayStatus:
    """`status` with another Accepted, unless it is not accepted already."""
    conditions = tuple(
        condition if (one.type, one.status) == (condition.type, "True") else one
        for one in status.conditions
    )
    return GatewayStatus(status.gateway, status.generation, conditions, status.listeners)


def join(several: Iterable[Said]) -> Said:
    """What is said of all Gateways. Of an object that has been edited since, only what is about the newest
    generation is said."""
    objects: dict[Subject, Object] = {}
    wanted: defaultdict[Subject, list[Wanted]] = defaultdict(list)
    for said in several:
        objects.update(said.objects)
        for subject, want in said.wanted.items():
            wanted[subject].append(want)
    return Said(objects, {subject: _together(parts) for subject, parts in wanted.items()})


def _together(parts: list[Wanted]) -> Wanted:
    newest = max(part.generation for part in parts)
    parts = [part for part in parts if part.generation == newest]
    return parts[0] if len(parts) == 1 else Together(tuple(parts))


def departed(
    routes: Mapping[Key, Object],
    pools: Mapping[PoolName, Object],
    controller: str,
    left: Collection[GatewayName],
    known: Collection[GatewayName],
) -> Said:
    """Removes our entries of Gateways that do not exist, and of those that have `left`: they were ours in
    the life of this process. `known` are all that exist."""
    objects: dict[Subject, Object] = {}
    wanted: dict[Subject, Wanted] = {}
    kinds = ((HTTP_ROUTE, routes), (INFERENCE_POOL, pools))
    for resource, found in kinds:
        for (namespace, name), data in found.items():
            gone = [
                gateway
                for gateway in dict.fromkeys(_gateways(data, namespace, controller))
                if gateway in left or gateway not in known
            ]
            if not gone:
                continue
            subject = Subject(resource, namespace, name)
            removals = [_removal(resource, Parent(one, controller), data) for one in gone]
            objects[subject] = data
            wanted[subject] = _together(removals)
    return Said(objects, wanted)


def _removal(resource: Resource, parent: Parent, data: Object) -> Wanted:
    if resource is HTTP_ROUTE:
        return RouteWanted(parent, RouteStatus(generation(data), ()))
    return PoolWanted(parent, Finding(generation(data), None))


def _gateways(data: Object, namespace: str, controller: str) -> Iterator[GatewayName]:
    """The Gateways that have an entry of ours."""
    for entry in (data.get("status") or {}).get("parents") or ():
        reference = entry.get("parentRef") or {}
        kind = reference.get("group", GATEWAY_GROUP), reference.get("kind", "Gateway")
        if entry.get("controllerName") == controller and kind == (GATEWAY_GROUP, "Gateway"):
            place = str(reference.get("namespace") or namespace), str(reference.get("name"))
            yield GatewayName(*place)
