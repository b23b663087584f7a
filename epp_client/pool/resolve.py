"""From Kubernetes objects to snapshots: level-based, state in and state out.

Pure; the clock is an argument. Sources (files, the API server) bring the objects; none of them knows
what a member, a picker address or a draining endpoint is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from epp_client.pool.endpoints import Endpoint, EndpointTable, canonical_ip, endpoint_key
from epp_client.pool.inference_pool import (
    ACTIVE_PORTS_ANNOTATION,
    EndpointPickerRef,
    InferencePool,
    PoolName,
)
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """What a source knows: parsed pools, and the other objects as plain data."""

    pools: Mapping[PoolName, InferencePool] = field(default_factory=dict)
    pods: Sequence[Object] = ()
    services: Sequence[Object] = ()
    slices: Sequence[Object] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """The snapshots that follow from a World."""

    snapshots: Mapping[PoolName, PoolSnapshot]
    draining_since: Mapping[tuple[PoolName, str], float]
    """When each draining endpoint began to drain; to be handed to the next `resolve`."""
    problems: tuple[Problem, ...] = ()
    next_change: float | None = None
    """When, by the same clock as `now`, the first draining endpoint goes."""


class _PodFacts(NamedTuple):
    """What pools and pickers ask about a Pod, read once per Pod instead of once per pool."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    ip: str | None
    ready: bool
    active_ports: str | None
    raw: Object

    def has(self, pairs: Iterable[tuple[str, str]]) -> bool:
        return all(self.labels.get(key) == value for key, value in pairs)


class _Index:
    """The objects of a World by what they are looked up by."""

    def __init__(self, world: World) -> None:
        wanted = {(name.namespace, *_first_pair(pool)) for name, pool in world.pools.items()}
        self.by_pair: dict[tuple[str, str, str], list[_PodFacts]] = {}
        self.by_namespace: dict[str, list[_PodFacts]] = {}
        for pod in map(_facts, world.pods):
            self.by_namespace.setdefault(pod.namespace, []).append(pod)
            for key, value in pod.labels.items():
                if (place := (pod.namespace, key, value)) in wanted:
                    self.by_pair.setdefault(place, []).append(pod)
        self.services = {(_namespace(s), _metadata(s).get("name")): s for s in world.services}
        self.slices: dict[tuple[str, str], list[Object]] = {}
        for item in world.slices:
            service = (_metadata(item).get("labels") or {}).get("kubernetes.io/service-name")
            if service is not None:
                self.slices.setdefault((_namespace(item), service), []).append(item)

    def candidates(self, pool: InferencePool) -> Sequence[_PodFacts]:
        """Pods that may match the pool's selector; an empty selector matches the whole namespace."""
        if not pool.match_labels:
            return self.by_namespace.get(pool.name.namespace, [])
        return self.by_pair.get((pool.name.namespace, *_first_pair(pool)), [])


def resolve(world: World, previous: Resolution | None, now: float) -> Resolution:
    """Work out every pool's table and picker. `now` in seconds of a monotonic clock."""
    index = _Index(world)
    snapshots: dict[PoolName, PoolSnapshot] = {}
    draining: dict[tuple[PoolName, str], float] = {}
    problems: list[Problem] = []
    since = previous.draining_since if previous else {}
    for name, pool in world.pools.items():
        old = previous.snapshots.get(name) if previous else None
        pods = index.candidates(pool)
        table, leaving = _table(pool, pods, old.table if old else None, since, now, problems)
        draining |= leaving
        picker = None
        if pool.picker is not None:
            picker = _picker(pool.picker, name.namespace, index)
            if picker.problem:
                subject, place = f"InferencePool {name}", "spec.endpointPickerRef"
                problems.append(Problem(Severity.WARNING, picker.problem, subject, place))
        snapshots[name] = PoolSnapshot(pool, table, picker)
    next_change = min(
        (began + world.pools[name].settings.drain_grace for (name, _), began in draining.items()),
        default=None,
    )
    # Pools that share a Pod say the same of it.
    return Resolution(snapshots, draining, tuple(dict.fromkeys(problems)), next_change)


def _first_pair(pool: InferencePool) -> tuple[str, str]:
    return pool.match_labels[0] if pool.match_labels else ("", "")


def _metadata(item: Object) -> Object:
    return item.get("metadata") or {}


def _namespace(item: Object) -> str:
    return str(_metadata(item).get("namespace") or "default")


def _facts(pod: Object) -> _PodFacts:
    metadata = _metadata(pod)
    return _PodFacts(
        str(metadata.get("name", "")),
        str(metadata.get("namespace") or "default"),
        metadata.get("labels") or {},
        _pod_ip(pod),
        is_ready(pod),
        (metadata.get("annotations") or {}).get(ACTIVE_PORTS_ANNOTATION),
        pod,
    )


def _pod_ip(pod: Object) -> str | None:
    status = pod.get("status") or {}
    ips = [entry.get("ip") for entry in status.get("podIPs") or []]
    text = status.get("podIP") or next((ip for ip in ips if ip), None)
    return canonical_ip(text) if text else None


def is_ready(pod: Object) -> bool:
    """Ready: its condition says so, and it neither terminates nor has ended."""
    status = pod.get("status") or {}
    if _metadata(pod).get("deletionTimestamp"):
        return False
    if status.get("phase") in ("Succeeded", "Failed"):
        return False
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in status.get("conditions") or []
    )


def _ports(pool: InferencePool, pod: _PodFacts, problems: list[Problem]) -> tuple[int, ...]:
    """The target ports that are active on this Pod."""
    text = pod.active_ports
    if text is None:
        return pool.target_ports
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not all(entry.isascii() and entry.isdigit() and len(entry) <= 5 for entry in entries):
        # A Pod whose active ports nobody can tell gets no traffic, rather than on a dead port.
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


def _table(
    pool: InferencePool,
    pods: Sequence[_PodFacts],
    old: EndpointTable | None,
    draining_since: Mapping[tuple[PoolName, str], float],
    now: float,
    problems: list[Problem],
) -> tuple[EndpointTable, dict[tuple[PoolName, str], float]]:
    members: dict[str, Endpoint] = {}
    draining: dict[tuple[PoolName, str], float] = {}
    for pod in pods:
        if pod.ip is None or not pod.has(pool.match_labels):
            continue
        for port in _ports(pool, pod, problems):
            key = endpoint_key(pod.ip, port)
            before = old.by_key.get(key) if old else None
            # By the Pod's name as well: an address can pass to a Pod that never was ready.
            stays = before is not None and before.pod == pod.name
            rival = members.get(key)
            if not pod.ready:
                if not stays or rival is not None:
                    continue
                began = draining_since.get((pool.name, key), now)
                if now >= began + pool.settings.drain_grace:
                    continue
                draining[pool.name, key] = began
            elif rival is not None and rival.ready:
                text = f"has {key}, as Pod {rival.pod} has; one of them is used"
                subject = f"Pod {pod.namespace}/{pod.name}"
                problems.append(Problem(Severity.WARNING, text, subject, "status.podIP"))
                if not stays:
                    continue
            else:
                draining.pop((pool.name, key), None)
            since = before.since if before else -1
            members[key] = Endpoint(key, pod.ip, port, pod.name, pod.ready, since)
    generation = old.generation if old else 0
    if old is None or members.keys() != old.by_key.keys():
        generation += 1
    by_key = {
        key: endpoint if endpoint.since >= 0 else endpoint._replace(since=generation)
        for key, endpoint in sorted(members.items())
    }
    ready_members = tuple(endpoint for endpoint in by_key.values() if endpoint.ready)
    return EndpointTable(MappingProxyType(by_key), ready_members, generation), draining


# --- the picker ---


def _picker(ref: EndpointPickerRef, namespace: str, index: _Index) -> PickerTarget:
    """The ready addresses behind the picker's Service port, or why there are none."""
    name = f"Service {namespace}/{ref.name}"
    if ref.group or ref.kind != "Service":
        kind = f"{ref.group}/{ref.kind}" if ref.group else ref.kind
        return PickerTarget(problem=f"kind {kind} is not supported; only Service is")
    service = index.services.get((namespace, ref.name))
    if service is None:
        return PickerTarget(problem=f"{name} does not exist")
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return PickerTarget(problem=f"{name} is of type ExternalName, which a picker must not be")
    port = next((p for p in spec.get("ports") or [] if p.get("port") == ref.port), None)
    if port is None:
        return PickerTarget(problem=f"{name} has no port {ref.port}")
    server_name = f"{ref.name}.{namespace}.svc"
    slices = index.slices.get((namespace, ref.name))
    if slices:
        addresses = _slice_addresses(slices, str(port.get("name") or ""))
    else:
        addresses = _selected_addresses(spec, port, index.by_namespace.get(namespace, []))
    if not addresses:
        return PickerTarget((), server_name, f"{name} port {ref.port} has no ready address")
    return PickerTarget(tuple(sorted(addresses)), server_name)


def _slice_addresses(slices: Sequence[Object], port_name: str) -> set[str]:
    ready: set[str] = set()
    leaving: set[str] = set()
    for item in slices:
        ports = [
            p["port"]
            for p in item.get("ports") or []
            if (p.get("name") or "") == port_name
            and (p.get("protocol") or "TCP") == "TCP"
            and p.get("port")
        ]
        for endpoint in item.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            if conditions.get("ready") is not False:  # an unset `ready` means yes
                found = ready
            elif conditions.get("serving") and conditions.get("terminating"):
                found = leaving
            else:
                continue
            ips = [canonical_ip(address) for address in endpoint.get("addresses") or []]
            found |= {endpoint_key(ip, number) for ip in ips if ip for number in ports}
    # As kube-proxy does: pickers that still serve while they terminate, when there are no others.
    return ready or leaving


def _selected_addresses(spec: Object, port: Object, pods: Sequence[_PodFacts]) -> set[str]:
    """Without EndpointSlices (a dump of Pods and Services): what the Service's selector finds."""
    selector = spec.get("selector")
    if not selector:
        return set()
    target = port.get("targetPort") or port.get("port")
    found: set[str] = set()
    for pod in pods:
        if pod.ip is None or not pod.ready or not pod.has(selector.items()):
            continue
        number = target if isinstance(target, int) else _named_port(pod.raw, str(target))
        if number is not None:
            found.add(endpoint_key(pod.ip, number))
    return found


def _named_port(pod: Object, name: str) -> int | None:
    for container in (pod.get("spec") or {}).get("containers") or []:
        for port in container.get("ports") or []:
            if port.get("name") == name:
                return int(port["containerPort"])
    return None
