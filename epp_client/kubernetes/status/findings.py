"""Computes the conditions of each pool from the newest pools, routes and snapshots. Never writes."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from epp_client.gateway.statuses import Condition
from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.client.resources import INFERENCE_POOL
from epp_client.kubernetes.status.conditions import (
    PoolFacts,
    Reason,
    Relation,
    conditions,
    export_of,
)
from epp_client.kubernetes.status.gateway_merge import summary_of
from epp_client.kubernetes.status.merge import Parent, merge
from epp_client.kubernetes.status.routes import in_doubt, references
from epp_client.kubernetes.status.subjects import NewStatus, Said, Subject, generation
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.parse import parse_inference_pool
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where to read the newest state."""

    store: PoolStore
    defaults: PoolSettings
    pools: Callable[[], Mapping[PoolName, Object] | None]
    """InferencePool objects as the API server has them; None before the first list."""
    routes: Callable[[], Iterable[Object] | None]
    """HTTPRoutes; empty if the kind is not installed, None before the first list."""
    named: Collection[PoolName] = ()
    """Pools that the command line names: they belong to the Gateway without a route."""


class Finding(NamedTuple):
    """The conditions to report for one generation of a pool; None: remove our entry."""

    generation: int
    conditions: Sequence[Condition] | None


class PoolWanted(NamedTuple):
    """Our entry in the status of an InferencePool."""

    parent: Parent
    finding: Finding

    @property
    def generation(self) -> int:
        """See Wanted."""
        return self.finding.generation

    def merged(self, data: Object, now: str) -> NewStatus:
        """See Wanted."""
        wanted = self.finding.conditions
        if wanted is not None:
            wanted = [_while_judged_again(data, self.parent, one) for one in wanted]
        merged = merge(data, self.parent, wanted, now)
        return NewStatus({"parents": list(merged.parents)}, merged.changed, merged.problem)

    def summary(self) -> str:
        """See Wanted."""
        if self.finding.conditions is None:
            return "entry removed: no route of the Gateway refers to the pool"
        return summary_of(self.finding.conditions)


def _while_judged_again(data: Object, parent: Parent, wanted: Condition) -> Condition:
    """A pool that is accepted stays so until the Gateway has judged its changed routes: they are served as
    they were. Otherwise every change of a route would take the condition back for a moment."""
    if (wanted.type, wanted.reason) != ("Accepted", Reason.PENDING):
        return wanted
    namespace = str(data["metadata"].get("namespace") or "default")
    for entry in (data.get("status") or {}).get("parents") or ():
        if parent.owns(entry, namespace):
            for before in entry.get("conditions") or ():
                if (before.get("type"), before.get("status")) == ("Accepted", "True"):
                    reason, message = (str(before.get(key, "")) for key in ("reason", "message"))
                    return Condition("Accepted", "True", reason, message)
    return wanted


def said_of_pools(inputs: Inputs, parent: Parent) -> Said:
    """What is wanted of the InferencePools."""
    pools = inputs.pools()
    if not pools:
        return Said({}, {})
    subjects = {name: Subject(INFERENCE_POOL, name.namespace, name.name) for name in pools}
    found = findings(inputs, pools, parent.gateway)
    return Said(
        {subjects[name]: pool for name, pool in pools.items()},
        {subjects[name]: PoolWanted(parent, finding) for name, finding in found.items()},
    )


def findings(
    inputs: Inputs, pools: Mapping[PoolName, Object], gateway: GatewayName
) -> dict[PoolName, Finding]:
    """The conditions of each of `pools` whose newest generation has been resolved."""
    listed = inputs.routes()
    routes = None if listed is None else list(listed)
    found = None if routes is None else references(routes, gateway)
    doubtful = frozenset[PoolName]() if routes is None else in_doubt(routes, gateway)
    out: dict[PoolName, Finding] = {}
    for name, pool in pools.items():
        relation = Relation((found or {}).get(name, ()), name in inputs.named)
        if relation:
            facts = _facts(inputs, name, pool)
            if facts is not None:
                out[name] = Finding(generation(pool), conditions(facts, relation, gateway))
        elif found is not None and name not in doubtful:
            # Without the list of routes it is unknown whether one refers to the pool.
            out[name] = Finding(generation(pool), None)
    return out


def _facts(inputs: Inputs, name: PoolName, pool: Object) -> PoolFacts | None:
    parsed, faults = parse_inference_pool(pool, inputs.defaults)
    if parsed is None:
        return PoolFacts(tuple(faults), None, export_of(pool))
    snapshot = inputs.store.snapshots.get(str(name))
    resolved = snapshot is not None and snapshot.synced
    if snapshot is None or not resolved or snapshot.pool.generation != parsed.generation:
        return None
    return PoolFacts(tuple(faults), snapshot.picker, export_of(pool))
