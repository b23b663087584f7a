"""Of which pools something is to be said, and when nothing may be said yet."""

from typing import Any

import pytest

from epp_client.kubernetes.status.findings import Finding, Inputs, findings
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.parse import parse_inference_pool
from epp_client.pool.resolve import World, resolve
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from testbed.stack import inference_pool
from tests.kubernetes.test_status_routes import GATEWAY, route

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
