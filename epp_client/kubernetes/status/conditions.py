"""The three conditions that the sidecar reports for a pool in `status.parents`. Pure.

Types and reasons are those of the `inference.networking.k8s.io/v1` API. Two stay unused:
`EndpointPickerRefMissing` is for implementations that require the reference, and `Exported` for those that
export pools to other clusters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from epp_client.gateway.statuses import Condition
from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.status.routes import RouteVerdict, Verdict
from epp_client.pool.problems import Fault, Severity, dotted
from epp_client.pool.snapshot import PickerTarget

EXPORT_ANNOTATION = "inference.networking.x-k8s.io/export"
"""Annotation that asks to export a pool to other clusters (GAIE proposal 1374). Its only value is
ClusterSet."""

MAX_MESSAGE = 2048
"""Characters of a message. The API allows 32 768."""

MAX_ROUTES_SHOWN = 5


class Reason(StrEnum):
    """Why a condition has its status."""

    ACCEPTED = "Accepted"
    NOT_SUPPORTED_BY_PARENT = "NotSupportedByParent"
    HTTP_ROUTE_NOT_ACCEPTED = "HTTPRouteNotAccepted"
    PENDING = "Pending"
    RESOLVED_REFS = "ResolvedRefs"
    INVALID_EXTENSION_REF = "InvalidExtensionRef"
    NOT_REQUESTED = "NotRequested"
    NOT_SUPPORTED = "NotSupported"


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """Findings about one generation of a pool."""

    faults: tuple[Fault, ...] = ()
    """With an error the pool as written cannot be served; with warnings it can."""
    picker: PickerTarget | None = None
    """None without an `endpointPickerRef`, or when the pool cannot be served."""
    export: str | None = None
    """The value of the export annotation."""


class Relation(NamedTuple):
    """Why a pool belongs to the Gateway: routes refer to it, or the command line names it."""

    routes: tuple[RouteVerdict, ...] = ()
    named: bool = False

    def __bool__(self) -> bool:
        return self.named or bool(self.routes)


def export_of(pool: Mapping[str, Any]) -> str | None:
    """The export annotation of an InferencePool object."""
    value = (pool["metadata"].get("annotations") or {}).get(EXPORT_ANNOTATION)
    return str(value) if value is not None else None


def conditions(
    facts: PoolFacts, relation: Relation, gateway: GatewayName
) -> tuple[Condition, Condition, Condition]:
    """The conditions of a pool that belongs to the Gateway, most important first.

    Messages do not depend on Pods: every change of a message is a write to the API server.
    """
    found = (
        _accepted(facts, relation, gateway),
        _resolved_refs(facts),
        _exported(facts.export),
    )
    accepted, resolved, exported = (
        c._replace(message=c.message[:MAX_MESSAGE]) if len(c.message) > MAX_MESSAGE else c
        for c in found
    )
    return accepted, resolved, exported


def _accepted(facts: PoolFacts, relation: Relation, gateway: GatewayName) -> Condition:
    errors = [_said(fault) for fault in facts.faults if fault.severity is Severity.ERROR]
    if errors:
        text = f"{'; '.join(errors)}. The last valid version, if any, is served"
        return Condition("Accepted", "False", Reason.NOT_SUPPORTED_BY_PARENT, text)
    by_verdict = {
        verdict: [route for route in relation.routes if route.verdict is verdict]
        for verdict in Verdict
    }
    rejected, pending = by_verdict[Verdict.REJECTED], by_verdict[Verdict.PENDING]
    accepted = by_verdict[Verdict.ACCEPTED]
    doubts = []
    if rejected:
        doubts.append(f"Not accepted by Gateway {gateway}: {_listed(rejected)}")
    if pending:
        doubts.append(f"Not yet judged by Gateway {gateway}: {_listed(pending)}")
    # One accepted route is enough: the pool gets requests.
    if not accepted and not relation.named:
        if pending:
            return Condition("Accepted", "Unknown", Reason.PENDING, ". ".join(doubts))
        return Condition("Accepted", "False", Reason.HTTP_ROUTE_NOT_ACCEPTED, ". ".join(doubts))
    sentences = [f"Served for Gateway {gateway}"]
    if facts.picker is None:
        sentences.append(
            "Without spec.endpointPickerRef requests go to the less loaded of two random endpoints"
        )
    sentences += [f"Ignored: {_said(fault)}" for fault in facts.faults]
    text = ". ".join([*sentences, *doubts])
    return Condition("Accepted", "True", Reason.ACCEPTED, text)


def _resolved_refs(facts: PoolFacts) -> Condition:
    errors = [fault for fault in facts.faults if fault.severity is Severity.ERROR]
    about_picker = [f for f in errors if f.path[:2] == ("spec", "endpointPickerRef")]
    if about_picker:
        text = "; ".join(map(_said, about_picker))
        return Condition("ResolvedRefs", "False", Reason.INVALID_EXTENSION_REF, text)
    if errors:
        text = "References are not resolved while the pool is not accepted"
        return Condition("ResolvedRefs", "Unknown", Reason.PENDING, text)
    if facts.picker is None:
        text = "There is no reference to resolve"
        return Condition("ResolvedRefs", "True", Reason.RESOLVED_REFS, text)
    if not facts.picker.resolved:
        text = f"spec.endpointPickerRef: {facts.picker.problem}"
        return Condition("ResolvedRefs", "False", Reason.INVALID_EXTENSION_REF, text)
    text = f"The endpoint picker is {facts.picker.server_name}"
    return Condition("ResolvedRefs", "True", Reason.RESOLVED_REFS, text)


def _exported(value: str | None) -> Condition:
    if not value:
        text = f"There is no annotation {EXPORT_ANNOTATION}"
        return Condition("Exported", "False", Reason.NOT_REQUESTED, text)
    text = (
        f"{EXPORT_ANNOTATION} is {value[:80]!r}, and epp-client exports no pool to other clusters"
    )
    return Condition("Exported", "False", Reason.NOT_SUPPORTED, text)


def _said(fault: Fault) -> str:
    return f"{dotted(fault.path)}: {fault.text}" if fault.path else fault.text


def _listed(routes: Sequence[RouteVerdict]) -> str:
    shown = [
        f"HTTPRoute {route.route} ({route.why})" if route.why else f"HTTPRoute {route.route}"
        for route in routes[:MAX_ROUTES_SHOWN]
    ]
    if len(routes) > MAX_ROUTES_SHOWN:
        shown.append(f"and {len(routes) - MAX_ROUTES_SHOWN} more")
    return ", ".join(shown)
