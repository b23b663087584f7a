"""Which routes tie a pool to a Gateway, and what the Gateway says of them."""

from typing import Any

import pytest

from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.status.routes import (
    GATEWAY_GROUP,
    POOL_GROUP,
    RouteVerdict,
    Verdict,
    references,
)
from epp_client.pool.inference_pool import PoolName

GATEWAY = GatewayName("infra", "edge")
POOL = PoolName("apps", "llama")
PARENT = {"name": "edge", "namespace": "infra"}
BACKEND = {"group": POOL_GROUP, "kind": "InferencePool", "name": "llama"}


def said(status: str, type: str = "Accepted", **more: Any) -> dict[str, Any]:
    return {"type": type, "status": status, "reason": "R", "message": "m", **more}


def verdict_on(parent: dict[str, Any], *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"parentRef": parent, "controllerName": "example.com/c", "conditions": list(conditions)}


def route(
    *parents: dict[str, Any],
    backend: dict[str, Any] = BACKEND,
    status: list[dict[str, Any]] | None = None,
    namespace: str = "apps",
    name: str = "chat",
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": name, "generation": 3},
        "spec": {
            "parentRefs": list(parents or (PARENT,)),
            "rules": [{"backendRefs": [{"name": "other", "port": 80}]}, {"backendRefs": [backend]}],
        },
        "status": {"parents": [verdict_on(PARENT, said("True"))] if status is None else status},
    }


def verdict(*args: Any, **more: Any) -> Verdict:
    (found,) = references([route(*args, **more)], GATEWAY)[POOL]
    return found.verdict


@pytest.mark.parametrize(
    "parent",
    [
        PARENT,
        PARENT | {"group": GATEWAY_GROUP, "kind": "Gateway"},
        PARENT | {"sectionName": "https"},
        PARENT | {"port": 443},
    ],
)
def test_a_route_attached_to_the_gateway_ties_its_pools(parent: dict[str, Any]) -> None:
    found = references([route(parent, status=[verdict_on(parent, said("True"))])], GATEWAY)
    assert found == {POOL: (RouteVerdict("apps/chat", Verdict.ACCEPTED),)}


@pytest.mark.parametrize(
    "parent",
    [
        # in the route's own namespace, where another Gateway has this name
        {"name": "edge"},
        {"name": "other", "namespace": "infra"},
        PARENT | {"kind": "ListenerSet"},
        PARENT | {"group": "", "kind": "Service"},
    ],
)
def test_a_route_attached_elsewhere_ties_nothing(parent: dict[str, Any]) -> None:
    assert references([route(parent)], GATEWAY) == {}


def test_a_parent_without_a_namespace_is_in_that_of_the_route() -> None:
    local = route({"name": "edge"}, namespace="infra", status=[])
    assert list(references([local], GATEWAY)) == [PoolName("infra", "llama")]


@pytest.mark.parametrize(
    "backend",
    [
        {"name": "llama"},
        {"group": "", "kind": "Service", "name": "llama"},
        {"group": POOL_GROUP, "kind": "InferencePoolImport", "name": "llama"},
        {"group": "inference.networking.x-k8s.io", "kind": "InferencePool", "name": "llama"},
    ],
)
def test_other_kinds_of_backends_are_no_pools(backend: dict[str, Any]) -> None:
    assert references([route(backend=backend)], GATEWAY) == {}


def test_routes_without_rules_status_or_parents_are_read_as_well() -> None:
    bare = {"metadata": {"name": "x", "namespace": "apps"}, "spec": {"parentRefs": [PARENT]}}
    orphan = {"metadata": {"name": "y", "namespace": "apps"}, "spec": {}}
    assert references([bare, orphan], GATEWAY) == {}


def test_a_pool_named_in_several_rules_and_routes_has_each_route_once_in_order() -> None:
    twice = route(name="b")
    twice["spec"]["rules"] *= 2
    found = references([twice, route(name="a")], GATEWAY)
    assert [said.route for said in found[POOL]] == ["apps/a", "apps/b"]


@pytest.mark.parametrize(
    ("resolved", "tied"),
    [
        (None, False),
        (said("False", "ResolvedRefs", reason="RefNotPermitted"), False),
        (said("Unknown", "ResolvedRefs"), False),
        (said("True", "ResolvedRefs", observedGeneration=2), False),
        (said("True", "ResolvedRefs"), True),
    ],
)
def test_a_reference_from_another_namespace_counts_when_the_gateway_has_resolved_it(
    resolved: dict[str, Any] | None, tied: bool
) -> None:
    conditions = [said("True"), *([resolved] if resolved else [])]
    away = route(
        backend=BACKEND | {"namespace": "apps"},
        namespace="guests",
        status=[verdict_on(PARENT, *conditions)],
    )
    assert (POOL in references([away], GATEWAY)) is tied


HTTP, HTTPS = PARENT | {"sectionName": "http"}, PARENT | {"sectionName": "https"}


@pytest.mark.parametrize(
    ("parents", "status", "expected"),
    [
        ([PARENT], [], Verdict.PENDING),
        ([PARENT], [verdict_on(PARENT)], Verdict.PENDING),
        ([PARENT], [verdict_on(PARENT, said("Unknown"))], Verdict.PENDING),
        ([PARENT], [verdict_on(PARENT, said("False"))], Verdict.REJECTED),
        ([PARENT], [verdict_on(PARENT, said("True", observedGeneration=3))], Verdict.ACCEPTED),
        # A verdict on what the route was before its last edit.
        ([PARENT], [verdict_on(PARENT, said("True", observedGeneration=2))], Verdict.PENDING),
        ([PARENT], [verdict_on(PARENT, said("False", observedGeneration=2))], Verdict.PENDING),
        # Another Gateway's verdict is nothing to us.
        ([PARENT], [verdict_on({"name": "edge"}, said("True"))], Verdict.PENDING),
        ([PARENT], [verdict_on(HTTP, said("True"))], Verdict.PENDING),
        # One listener that takes the route is enough.
        (
            [HTTP, HTTPS],
            [verdict_on(HTTP, said("False")), verdict_on(HTTPS, said("True"))],
            Verdict.ACCEPTED,
        ),
        ([HTTP, HTTPS], [verdict_on(HTTP, said("False"))], Verdict.PENDING),
        (
            [HTTP, HTTPS],
            [verdict_on(HTTP, said("False")), verdict_on(HTTPS, said("False"))],
            Verdict.REJECTED,
        ),
    ],
)
def test_what_the_gateway_says_of_a_route(
    parents: list[dict[str, Any]], status: list[dict[str, Any]], expected: Verdict
) -> None:
    assert verdict(*parents, status=status) is expected


def test_a_rejection_says_why() -> None:
    no = said("False", reason="NotAllowedByListeners", message="hosts differ")
    (found,) = references([route(status=[verdict_on(PARENT, no)])], GATEWAY)[POOL]
    assert found.why == "NotAllowedByListeners: hosts differ"
