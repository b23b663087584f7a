"""Resolves Kubernetes objects to pool snapshots. Level-based: it takes the whole state, not changes.

Pure; the time is an argument. Sources (files, the API server) only bring the objects: what a member and a
draining endpoint is, is decided here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from types import MappingProxyType
from typing import Any

from epp_client.pool.endpoints import Endpoint, EndpointTable, endpoint_key
from epp_client.pool.inference_pool import ACTIVE_PORTS_ANNOTATION, InferencePool, PoolName
from epp_client.pool.picker_target import picker_target
from epp_client.pool.pods import PodFacts
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.service_addresses import place_of, slices_by_service
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot

Object = Mapping[str, Any]

_PICKER_FIELD = "spec.endpointPickerRef"


@dataclass(frozen=True, slots=True)
class PoolResolution:
    """The snapshot of one pool, and the state that its next resolution needs."""

    snapshot: PoolSnapshot
    draining_since: Mapping[str, float] = field(default_factory=dict)
    """When each draining endpoint began to drain, in seconds by key."""
    left_since: Mapping[str, float] = field(default_factory=dict)
    """The part of `draining_since` that was ready when its Pod stopped matching."""
    problems: tuple[Problem, ...] = ()

    @property
    def next_change(self) -> float | None:
        """When the first drain grace ends, by the same clock as `now`."""
        grace = self.snapshot.pool.settings.drain_grace
        return min((began + grace for began in self.draining_since.values()), default=None)


def resolve_pool(
    pool: InferencePool,
    pods: Sequence[PodFacts],
    picker: PickerTarget | None,
    previous: PoolResolution | None,
    now: float,
    others: Sequence[PodFacts] | None = None,
) -> PoolResolution:
    """Resolve one pool. `now` is in seconds of a monotonic clock. `pods` may include Pods that do not
    match. `others` are Pods that may have the address of a former member now; None: `pods`.
    """
    problems: list[Problem] = []
    old = previous.snapshot.table if previous else None
    since = previous.draining_since if previous else {}
    members, draining = _members(pool, pods, old, since, now, problems)
    left: dict[str, float] = {}
    if previous is not None:
        left = _left(pool, members, previous, pods if others is None else others, now)
    if picker is not None and picker.problem:
        subject, place = f"InferencePool {pool.name}", _PICKER_FIELD
        severity = Severity.ERROR if picker.never else Severity.WARNING
        problems.append(Problem(severity, picker.problem, subject, place))
    snapshot = PoolSnapshot(pool, _table(members, old), picker)
    return PoolResolution(snapshot, draining | left, left, tuple(problems))


def by_options(found: PoolResolution) -> PoolResolution:
    """`found`, whose problems name the options of a pool instead of the fields of an InferencePool."""
    problems = tuple(
        problem._replace(field="picker") if problem.field == _PICKER_FIELD else problem
        for problem in found.problems
    )
    return replace(found, problems=problems)


def _ports(pool: InferencePool, pod: PodFacts, problems: list[Problem]) -> tuple[int, ...]:
    """The target ports that are active on this Pod."""
    text = pod.active_ports
    if text is None:
        return pool.target_ports
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not all(entry.isascii() and entry.isdigit() and len(entry) <= 5 for entry in entries):
        # With an invalid list the Pod gets no traffic, as an inactive port may be dead.
        problems.append(
            Problem(
                Severity.WARNING,
                f"{text[:80]!r} is not a comma-separated list of ports; the Pod gets no traffic",
                f"Pod {pod.namespace}/{pod.name}",
                f"metadata.annotations[{ACTIVE_PORTS_ANNOTATION!r}]",
            )
        )
        return ()
    active = {int(entry) for entry in entries}
    return tuple(port for port in pool.target_ports if port in active)


def _members(
    pool: InferencePool,
    pods: Sequence[PodFacts],
    old: EndpointTable | None,
    draining_since: Mapping[str, float],
    now: float,
    problems: list[Problem],
) -> tuple[dict[str, Endpoint], dict[str, float]]:
    """The endpoints of matching Pods, and since when the draining ones drain."""
    members: dict[str, Endpoint] = {}
    draining: dict[str, float] = {}
    known: Mapping[str, Endpoint] = old.by_key if old else {}
    selects = pool.settings.local_pick.matches
    for pod in pods:
        if pod.ip is None or not pod.has(pool.match_labels):
            continue
        local = selects(pod.labels)
        for ip, port in product(pod.ips, _ports(pool, pod, problems)):
            key, other = endpoint_key(ip, port), ip != pod.ip
            before = known.get(key)
            # Compare the Pod's name too: the address may now be that of a Pod that was never ready.
            stays = before is not None and before.pod == pod.name
            rival = members.get(key)
            if not pod.ready:
                if not stays or rival is not None:
                    continue
                began = draining_since.get(key, now)
                if now >= began + pool.settings.drain_grace:
                    continue
                draining[key] = began
            elif rival is not None and rival.ready:
                text = f"has {key} like Pod {rival.pod}; only one of them is used"
                subject = f"Pod {pod.namespace}/{pod.name}"
                problems.append(Problem(Severity.WARNING, text, subject, "status.podIP"))
                if not stays:
                    continue
            else:
                draining.pop(key, None)
            now_is = pod.ready, other, local
            if (
                before is not None
                and stays
                and (before.ready, before.other, before.local) == now_is
            ):
                # Keep the object itself, so that unchanged members are detected by identity.
                members[key] = before
            else:
                since = before.since if before else -1
                members[key] = Endpoint(key, ip, port, pod.name, pod.ready, since, other, local)
    return members, draining


def _left(
    pool: InferencePool,
    members: dict[str, Endpoint],
    previous: PoolResolution,
    pods: Sequence[PodFacts],
    now: float,
) -> dict[str, float]:
    """Add endpoints that were ready and stopped being members, so that they drain. Returns when they began
    to. The selector, the ports or a label may have changed, and a picker may notice it later than we do. A
    watch by labels cannot tell such endpoints from deleted Pods, but a Pod that terminates normally stops
    being ready before it is deleted. An address that another Pod has now does not drain.
    """
    missing = [e for key, e in previous.snapshot.table.by_key.items() if key not in members]
    if not missing:
        return {}
    owners: dict[str, set[str]] = {}
    for pod in pods:
        for ip in pod.ips:
            owners.setdefault(ip, set()).add(pod.name)
    left: dict[str, float] = {}
    for endpoint in missing:
        began = previous.left_since.get(endpoint.key, now if endpoint.ready else None)
        if began is None or now >= began + pool.settings.drain_grace:
            continue
        if owners.get(endpoint.ip, set()) <= {endpoint.pod}:
            members[endpoint.key] = endpoint._replace(ready=False) if endpoint.ready else endpoint
            left[endpoint.key] = began
    return left


def _table(members: Mapping[str, Endpoint], old: EndpointTable | None) -> EndpointTable:
    if old is not None and members.keys() == old.by_key.keys():
        if all(old.by_key[key] is endpoint for key, endpoint in members.items()):
            return old
        generation = old.generation
        by_key = {key: members[key] for key in old.by_key}
    else:
        generation = old.generation + 1 if old else 1
        by_key = {
            key: endpoint if endpoint.since >= 0 else endpoint._replace(since=generation)
            for key, endpoint in sorted(members.items())
        }
    return EndpointTable(MappingProxyType(by_key), generation)


# --- all pools at once, for manifests ---


@dataclass(frozen=True, slots=True)
class World:
    """The content of manifests: parsed pools, Pods, and other objects as plain data."""

    pools: Mapping[PoolName, InferencePool] = field(default_factory=dict)
    pods: Sequence[PodFacts] = ()
    services: Sequence[Object] = ()
    slices: Sequence[Object] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """The resolutions of all pools of a World."""

    pools: Mapping[PoolName, PoolResolution]

    @property
    def snapshots(self) -> dict[PoolName, PoolSnapshot]:
        """The pools' snapshots."""
        return {name: found.snapshot for name, found in self.pools.items()}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems. Pools that share a Pod have equal problems; each is there once."""
        return tuple(dict.fromkeys(p for found in self.pools.values() for p in found.problems))

    @property
    def next_change(self) -> float | None:
        """When the first drain grace of any pool ends."""
        changes = [found.next_change for found in self.pools.values()]
        return min((at for at in changes if at is not None), default=None)


class _Index:
    """Indexes of the objects of a World."""

    def __init__(self, world: World) -> None:
        wanted = {(name.namespace, *_first_pair(pool)) for name, pool in world.pools.items()}
        self.by_pair: dict[tuple[str, str, str], list[PodFacts]] = {}
        self.by_namespace: dict[str, list[PodFacts]] = {}
        for pod in world.pods:
            self.by_namespace.setdefault(pod.namespace, []).append(pod)
            for key, value in pod.labels.items():
                if (place := (pod.namespace, key, value)) in wanted:
                    self.by_pair.setdefault(place, []).append(pod)
        self.services = {place_of(service): service for service in world.services}
        self.slices = slices_by_service(world.slices)

    def candidates(self, pool: InferencePool) -> Sequence[PodFacts]:
        """Pods that may match the pool's selector; an empty selector matches the whole namespace."""
        if not pool.match_labels:
            return self.by_namespace.get(pool.name.namespace, [])
        return self.by_pair.get((pool.name.namespace, *_first_pair(pool)), [])


def resolve(world: World, previous: Resolution | None, now: float) -> Resolution:
    """Resolve every pool. `now` is in seconds of a monotonic clock."""
    index = _Index(world)
    before = previous.pools if previous else {}
    pools: dict[PoolName, PoolResolution] = {}
    for name, pool in world.pools.items():
        others = index.by_namespace.get(name.namespace, [])
        picker = None
        if (ref := pool.picker) is not None:
            place = (name.namespace, ref.name)
            slices = index.slices.get(place, ())
            picker = picker_target(ref, name.namespace, index.services.get(place), slices, others)
        candidates = index.candidates(pool)
        pools[name] = resolve_pool(pool, candidates, picker, before.get(name), now, others)
    return Resolution(pools)


def _first_pair(pool: InferencePool) -> tuple[str, str]:
    return pool.match_labels[0] if pool.match_labels else ("", "")
