"""Of which pools something is to be said, and when nothing may be said yet."""

from typing import Any

import pytest

from epp_client.kubernetes.client.resources import INFERENCE_POOL
from epp_client.kubernetes.status.findings import (
    Finding,
    Inputs,
    PoolWanted,
    findings,
    said_of_pools,
)
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.subjects import Said, Subject
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.parse import parse_inference_pool
from epp_client.pool.resolve import World, resolve
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from testbed.stack import inference_pool
from tests.kubernetes.test_status_routes import BACKEND, GATEWAY, route, verdict_on
from tests.kubernetes.test_status_routes import PARENT as REFERENCE
from tests.kubernetes.test_status_routes import said as verdict_of

POOL = PoolName("apps", "llama")
REFERRING, NO_ROUTES, NOT_READ = (route(),), (), None


def pool(generation: int = 1, **spec: Any) -> dict[str, Any]:
    data = inference_pool("llama", 8000, None, "", **spec)
    data["metadata"] |= {"namespace": "apps", "generation": generation}
    return data


def found(
    data: dict[str, Any],
    *,
    routes: Any = NO_ROUTES,
    named: bool = False,
    resolved: dict[str, Any] | None = None,
) -> Finding | None:
    """What is to be said of `data`, when `resolved` is what the sidecar serves."""
    store = PoolStore()
    if resolved is not None:
        parsed, _ = parse_inference_pool(resolved, PoolSettings())
        assert parsed is not None
        store.publish(resolve(World({parsed.name: parsed}), None, 0.0).snapshots)
    inputs = Inputs(
        store, PoolSettings(), lambda: None, lambda: routes, {POOL} if named else frozenset()
    )
    return findings(inputs, {POOL: data}, GATEWAY).get(POOL)


@pytest.mark.parametrize(("routes", "named"), [(REFERRING, False), (NO_ROUTES, True)])
def test_a_pool_of_the_gateway_has_conditions_of_its_generation(routes: Any, named: bool) -> None:
    wanted = found(pool(4), routes=routes, named=named, resolved=pool(4))
    assert wanted is not None
    assert wanted.generation == 4
    assert wanted.conditions


def test_a_pool_of_another_gateway_has_none_any_more() -> None:
    assert found(pool(), resolved=pool()) == Finding(1, None)


def test_while_the_routes_are_unknown_nothing_is_taken_back() -> None:
    assert found(pool(), routes=NOT_READ, resolved=pool()) is None


@pytest.mark.parametrize(
    ("resolved", "kept"),
    [
        (verdict_of("True", "ResolvedRefs", observedGeneration=2), True),
        (verdict_of("False", "ResolvedRefs", observedGeneration=2), False),
        (verdict_of("False", "ResolvedRefs"), False),
        (verdict_of("Unknown", "ResolvedRefs"), False),
    ],
)
def test_while_a_changed_route_of_another_namespace_is_judged_again_nothing_is_taken_back(
    resolved: dict[str, Any], kept: bool
) -> None:
    away = route(
        backend=BACKEND | {"namespace": "apps"},
        namespace="guests",
        status=[verdict_on(REFERENCE, verdict_of("True"), resolved)],
    )
    assert found(pool(), routes=[away], resolved=pool()) == (None if kept else Finding(1, None))


def test_while_the_routes_are_unknown_a_named_pool_has_its_conditions() -> None:
    wanted = found(pool(), routes=NOT_READ, named=True, resolved=pool())
    assert wanted is not None
    assert wanted.conditions


def test_a_generation_that_is_not_served_yet_has_to_wait() -> None:
    assert found(pool(2), named=True, resolved=pool(1)) is None
    assert found(pool(2), named=True) is None


def test_a_pool_that_cannot_be_read_has_conditions_at_once() -> None:
    wanted = found(pool(2, targetPorts=[]), named=True, resolved=pool(1))
    assert wanted is not None
    assert wanted.conditions
    assert {condition.status for condition in wanted.conditions} >= {"False"}


def said(pools: dict[PoolName, Any] | None, routes: Any = NO_ROUTES) -> Said:
    store = PoolStore()
    parsed, _ = parse_inference_pool(pool(), PoolSettings())
    assert parsed is not None
    store.publish(resolve(World({parsed.name: parsed}), None, 0.0).snapshots)
    inputs = Inputs(store, PoolSettings(), lambda: pools, lambda: routes)
    return said_of_pools(inputs, Parent(GATEWAY, "epp-client.dev/gateway"))


def test_before_pools_are_listed_nothing_is_said() -> None:
    assert said(None) == Said({}, {})


def test_what_is_wanted_of_a_pool_goes_into_its_status() -> None:
    found = said({POOL: pool()}, REFERRING)
    subject = Subject(INFERENCE_POOL, *POOL)
    assert [*found.objects] == [*found.wanted] == [subject]
    want = found.wanted[subject]
    assert want.generation == 1
    written = want.merged(pool(), "2026-01-01T00:00:00Z")
    assert written.changed
    (entry,) = written.status["parents"]
    assert entry["controllerName"] == "epp-client.dev/gateway"
    assert "Accepted=" in want.summary()
    # Its route goes: so does the entry.
    gone = said({POOL: pool()}).wanted[subject]
    data = pool() | {"status": written.status}
    assert gone.merged(data, "2026-01-01T00:00:00Z").status == {"parents": []}
    assert "removed" in gone.summary()


PARENT = Parent(GATEWAY, "epp-client.dev/gateway")
JUDGED_BEFORE = route(status=[verdict_on(REFERENCE, verdict_of("True", observedGeneration=2))])
"""A route that was accepted, and has changed since."""


def with_entry(data: dict[str, Any], status: str, reason: str) -> dict[str, Any]:
    """`data` with our entry, whose condition Accepted has this status."""
    condition = {
        "type": "Accepted",
        "status": status,
        "reason": reason,
        "message": "said before",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    entry = {
        "parentRef": PARENT.reference(),
        "controllerName": PARENT.controller,
        "conditions": [condition],
    }
    return {**data, "status": {"parents": [entry]}}


def accepted_after(data: dict[str, Any], routes: Any) -> dict[str, Any]:
    """The condition Accepted that is written over what `data` has."""
    wanted = found(data, routes=routes, resolved=pool())
    assert wanted is not None
    status = PoolWanted(PARENT, wanted).merged(data, "2026-02-02T00:00:00Z").status
    [entry] = status["parents"]
    return next(c for c in entry["conditions"] if c["type"] == "Accepted")


def test_an_accepted_pool_stays_accepted_while_its_route_is_judged_again() -> None:
    kept = accepted_after(with_entry(pool(), "True", "Accepted"), [JUDGED_BEFORE])
    assert (kept["status"], kept["reason"], kept["message"]) == ("True", "Accepted", "said before")
    assert kept["lastTransitionTime"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "before", [("False", "HTTPRouteNotAccepted"), ("Unknown", "Pending"), None]
)
def test_a_pool_that_was_not_accepted_is_pending_until_its_route_is_judged(before: Any) -> None:
    data = pool() if before is None else with_entry(pool(), *before)
    assert accepted_after(data, [JUDGED_BEFORE])["reason"] == "Pending"


def test_an_accepted_pool_is_not_accepted_once_its_route_is_rejected() -> None:
    rejected = route(status=[verdict_on(REFERENCE, verdict_of("False"))])
    said_now = accepted_after(with_entry(pool(), "True", "Accepted"), [rejected])
    assert (said_now["status"], said_now["reason"]) == ("False", "HTTPRouteNotAccepted")
