"""Sorts the objects of manifests: pools and Gateways, and the objects that they need. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from epp_client.documents.located import Located
from epp_client.gateway.shapes import GATEWAY_GROUP
from epp_client.gateway.table import GatewayName
from epp_client.gateway.world import GatewayWorld
from epp_client.manifests.gateways import gateway_worlds, grant_faults
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.parse import API_VERSION, parse_inference_pool
from epp_client.pool.pods import pod_facts
from epp_client.pool.problems import Fault, Problem, Severity
from epp_client.pool.resolve import World
from epp_client.pool.settings import PoolSettings
from epp_client.pool.shapes import SHAPED, shape_faults

_GROUPS = {
    "InferencePool": "inference.networking.k8s.io",
    "Pod": "",
    "Service": "",
    "EndpointSlice": "discovery.k8s.io",
    "Gateway": GATEWAY_GROUP,
    "HTTPRoute": GATEWAY_GROUP,
    "ReferenceGrant": GATEWAY_GROUP,
    "Secret": "",
    "ConfigMap": "",
    "Namespace": "",
}
"""API group of each kind that is read. A kind of another group is not read."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What manifests say together."""

    world: World = field(default_factory=World)
    gateways: Mapping[GatewayName, GatewayWorld] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The content of a path at one moment."""

    objects: Mapping[str, tuple[Located, ...]]
    """Objects by file, for the files that could be read."""
    problems: tuple[Problem, ...] = ()
    failed: frozenset[str] = field(default_factory=frozenset)
    """Files that exist and could not be read."""


def contents_of(
    loaded: Loaded, defaults: PoolSettings, last_good: Mapping[PoolName, InferencePool]
) -> Contents:
    """Parse the pools and sort the other objects by kind.

    An invalid pool is taken from `last_good` if it is there.
    """
    problems: list[Problem] = [*_not_read(loaded)]
    pools: dict[PoolName, InferencePool] = {}
    others: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in _GROUPS}
    seen: dict[str, Located] = {}
    for found in _ours(loaded):
        metadata = found.data.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("name"):
            problems.append(found.problem(Fault(("metadata", "name"), "is required")))
            continue
        if found.subject in seen:
            first = seen[found.subject]
            place = f"{first.file}:{first.line()}"
            problems.append(found.problem(Fault((), f"is defined twice, first at {place}")))
            continue
        seen[found.subject] = found
        # Duplicate keys are ambiguous; `kubectl apply` refuses them as well.
        faults = [Fault(path, "is a duplicate key") for path in found.repeated]
        if kind := _other_kind(found):
            faults += _shape_faults(kind, found.data)
            if not faults:
                others[kind].append(found.data)
        else:
            pool, more = parse_inference_pool(found.data, defaults)
            name = PoolName(str(metadata.get("namespace") or "default"), str(metadata["name"]))
            if pool is not None and not faults:
                pools[name] = pool
            elif name in last_good:
                pools[name] = last_good[name]
            faults += more
        problems += [found.problem(fault) for fault in faults]
    pods = [pod_facts(pod) for pod in others["Pod"]]
    world = World(pools, pods, others["Service"], others["EndpointSlice"])
    return Contents(world, gateway_worlds(others, world), tuple(problems))


def _ours(loaded: Loaded) -> Iterable[Located]:
    return (found for file in loaded.objects.values() for found in file if _is_ours(found))


def _is_ours(found: Located) -> bool:
    kind, version = found.data.get("kind"), found.data.get("apiVersion")
    return kind in _GROUPS and (version is None or _group(version) == _GROUPS[kind])


def _group(version: object) -> str:
    group, slash, _ = str(version).rpartition("/")
    return group if slash else ""


def _not_read(loaded: Loaded) -> Iterable[Problem]:
    """Warn of objects that look like InferencePools and are not read."""
    for found in (item for file in loaded.objects.values() for item in file):
        kind = str(found.data.get("kind"))
        if kind.lower() != "inferencepool" or _is_ours(found):
            continue
        group = _group(found.data.get("apiVersion"))
        if kind != "InferencePool":
            text = f"{kind!r} is not read; write InferencePool"
            fault = Fault(("kind",), text, Severity.WARNING)
        else:
            text = f"{found.data.get('apiVersion')!r} is not read; write {API_VERSION}"
            fault = Fault(("apiVersion",), text, Severity.WARNING)
        # The subject must differ from that of an InferencePool with the same name.
        subject = found.subject.replace(kind, f"{kind}.{group}" if group else kind, 1)
        yield found.problem(fault)._replace(subject=subject)


def _shape_faults(kind: str, data: Mapping[str, Any]) -> list[Fault]:
    """Faults in the types of an object. Those of Gateways and HTTPRoutes are found when they are
    resolved."""
    if kind in SHAPED:
        return shape_faults(kind, data)
    return grant_faults(data) if kind == "ReferenceGrant" else []


def _other_kind(found: Located) -> str | None:
    kind = found.data["kind"]
    return None if kind == "InferencePool" else str(kind)


def placed(problems: Iterable[Problem], loaded: Loaded) -> list[Problem]:
    """Add the places of their objects to problems that `resolve` found."""
    by_subject: dict[str, Located] = {}
    subjects = {problem.subject for problem in problems}
    for found in _ours(loaded):
        if found.subject in subjects:
            by_subject.setdefault(found.subject, found)
    return [
        by_subject[problem.subject].locate(problem) if problem.subject in by_subject else problem
        for problem in problems
    ]
