"""From Kubernetes objects to snapshots: level-based, state in and state out.

Pure; the clock is an argument. Sources (files, the API server) bring the objects; none of them knows
what a member, a picker address or a draining endpoint is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

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


def resolve(world: World, previous: Resolution | None, now: float) -> Resolution:
    """Work out every pool's table and picker. `now` in seconds of a monotonic clock."""
    by_namespace: dict[str, list[Object]] = {}
    for pod in world.pods:
        by_namespace.setdefault(_namespace(pod), []).append(pod)
    snapshots: dict[PoolName, PoolSnapshot] = {}
    draining: dict[tuple[PoolName, str], float] = {}
    problems: list[Problem] = []
    for name, pool in world.pools.items():
        old = previous.snapshots.get(name) if previous else None
        since = previous.draining_since if previous else {}
        pods = by_namespace.get(name.namespace, [])
        table, gone = _table(pool, pods, old.table if old else None, since, now, problems)
        draining |= gone
        picker = None
        if pool.picker is not None:
            picker = _picker(pool.picker, name.namespace, world, pods)
            if picker.problem:
                problems.append(
                    Problem(
                        Severity.WARNING,
                        picker.problem,
                        f"InferencePool {name}",
                        "spec.endpointPickerRef",
                    )
                )
        snapshots[name] = PoolSnapshot(pool, table, picker)
    next_change = min(
        (began + world.pools[name].settings.drain_grace for (name, _), began in draining.items()),
        default=None,
    )
    return Resolution(snapshots, draining, tuple(problems), next_change)


def _namespace(item: Object) -> str:
    return str(item.get("metadata", {}).get("namespace") or "default")


def _has_labels(item: Object, pairs: Iterable[tuple[str, str]]) -> bool:
    labels = item.get("metadata", {}).get("labels") or {}
    return all(labels.get(key) == value for key, value in pairs)


def _pod_ip(pod: Object) -> str | None:
    status = pod.get("status") or {}
    ips = [entry.get("ip") for entry in status.get("podIPs") or []]
    text = status.get("podIP") or next((ip for ip in ips if ip), None)
    return canonical_ip(text) if isinstance(text, str) else None


def is_ready(pod: Object) -> bool:
    """Ready: its condition says so, and it neither terminates nor has ended."""
    status = pod.get("status") or {}
    if pod.get("metadata", {}).get("deletionTimestamp"):
        return False
    if status.get("phase") in ("Succeeded", "Failed"):
        return False
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in status.get("conditions") or []
    )


def _ports(pool: InferencePool, pod: Object, problems: list[Problem]) -> tuple[int, ...]:
    """The target ports that are active on this Pod."""
    annotations = pod.get("metadata", {}).get("annotations") or {}
    text = annotations.get(ACTIVE_PORTS_ANNOTATION)
    if text is None:
        return pool.target_ports
    entries = [entry.strip() for entry in str(text).split(",") if entry.strip()]
    if not all(entry.isascii() and entry.isdigit() for entry in entries):
        # A Pod whose active ports nobody can tell gets no traffic, rather than on a dead port.
        problems.append(
            Problem(
                Severity.WARNING,
                f"{text!r} is not a comma-separated list of ports; the Pod gets no traffic",
                f"Pod {_namespace(pod)}/{pod.get('metadata', {}).get('name')}",
                f"metadata.annotations[{ACTIVE_PORTS_ANNOTATION!r}]",
            )
        )
        return ()
    active = {int(entry) for entry in entries}
    return tuple(port for port in pool.target_ports if port in active)


def _table(
    pool: InferencePool,
    pods: Sequence[Object],
    old: EndpointTable | None,
    draining_since: Mapping[tuple[PoolName, str], float],
    now: float,
    problems: list[Problem],
) -> tuple[EndpointTable, dict[tuple[PoolName, str], float]]:
    members: dict[str, Endpoint] = {}
    draining: dict[tuple[PoolName, str], float] = {}
    for pod in pods:
        if not _has_labels(pod, pool.match_labels):
            continue
        ip = _pod_ip(pod)
        if ip is None:
            continue
        ready = is_ready(pod)
        pod_name = str(pod.get("metadata", {}).get("name", ""))
        for port in _ports(pool, pod, problems):
            key = endpoint_key(ip, port)
            before = old.by_key.get(key) if old else None
            if not ready:
                if before is None or key in members:
                    continue  # never was a member, or its address has a new, ready owner
                began = draining_since.get((pool.name, key), now)
                if now >= began + pool.settings.drain_grace:
                    continue
                draining[pool.name, key] = began
            else:
                draining.pop((pool.name, key), None)
            members[key] = Endpoint(key, ip, port, pod_name, ready, before.since if before else -1)
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


def _picker(
    ref: EndpointPickerRef, namespace: str, world: World, pods: Sequence[Object]
) -> PickerTarget:
    """The ready addresses behind the picker's Service port, or why there are none."""
    name = f"Service {namespace}/{ref.name}"
    if ref.group or ref.kind != "Service":
        kind = f"{ref.group}/{ref.kind}" if ref.group else ref.kind
        return PickerTarget(problem=f"kind {kind} is not supported; only Service is")
    service = next(
        (
            s
            for s in world.services
            if _namespace(s) == namespace and s.get("metadata", {}).get("name") == ref.name
        ),
        None,
    )
    if service is None:
        return PickerTarget(problem=f"{name} does not exist")
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return PickerTarget(problem=f"{name} is of type ExternalName, which a picker must not be")
    port = next((p for p in spec.get("ports") or [] if p.get("port") == ref.port), None)
    if port is None:
        return PickerTarget(problem=f"{name} has no port {ref.port}")
    server_name = f"{ref.name}.{namespace}.svc"
    slices = [
        s
        for s in world.slices
        if _namespace(s) == namespace and _has_labels(s, [("kubernetes.io/service-name", ref.name)])
    ]
    if slices:
        addresses = _slice_addresses(slices, str(port.get("name") or ""))
    else:
        addresses = _selected_addresses(spec, port, pods)
    if not addresses:
        return PickerTarget((), server_name, f"{name} port {ref.port} has no ready address")
    return PickerTarget(tuple(sorted(addresses)), server_name)


def _slice_addresses(slices: Sequence[Object], port_name: str) -> set[str]:
    found: set[str] = set()
    for item in slices:
        ports = [
            p.get("port")
            for p in item.get("ports") or []
            if str(p.get("name") or "") == port_name and p.get("protocol", "TCP") == "TCP"
        ]
        for endpoint in item.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            if conditions.get("ready") is False or conditions.get("terminating"):
                continue  # an unset `ready` means yes
            ips = [canonical_ip(address) for address in endpoint.get("addresses") or []]
            found |= {endpoint_key(ip, port) for ip in ips if ip for port in ports if port}
    return found


def _selected_addresses(spec: Object, port: Object, pods: Sequence[Object]) -> set[str]:
    """Without EndpointSlices (a dump of Pods and Services): what the Service's selector finds."""
    selector = spec.get("selector")
    if not selector:
        return set()
    target = port.get("targetPort") or port.get("port")
    found: set[str] = set()
    for pod in pods:
        ip = _pod_ip(pod)
        if ip is None or not is_ready(pod) or not _has_labels(pod, selector.items()):
            continue
        number = target if isinstance(target, int) else _named_port(pod, str(target))
        if number is not None:
            found.add(endpoint_key(ip, number))
    return found


def _named_port(pod: Object, name: str) -> int | None:
    for container in (pod.get("spec") or {}).get("containers") or []:
        for port in container.get("ports") or []:
            if port.get("name") == name:
                return int(port["containerPort"])
    return None
