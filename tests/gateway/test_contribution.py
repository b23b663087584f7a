"""What a route contributes is kept while neither the route nor anything that it depends on has changed."""

from collections.abc import Mapping
from typing import Any

import pytest

from epp_client.gateway.contribution import Contribution
from epp_client.gateway.statuses import RouteName
from epp_client.gateway.world import GatewayResolution
from epp_client.pool.inference_pool import PoolName
from tests.gateway.objects import (
    POOL,
    POOL_REF,
    gateway,
    grant,
    listener,
    path,
    resolve,
    route,
    rule,
    service,
    slices,
)

SERVICE = {"name": "web", "port": 80}
ABROAD = {"name": "web", "port": 80, "namespace": "other"}
ROUTES = (
    route(rule(path("/pool"), to=[POOL_REF]), name="pool"),
    route(rule(path("/web"), to=[SERVICE]), name="web"),
    route(rule(path("/abroad"), to=[ABROAD]), name="abroad", hostnames=["a.example.com"]),
    route(rule(path("/far")), name="far", namespace="far"),
)
PLACES = (("default", "web"), ("other", "web"))
ONLY_SAME = gateway(listener())
SELECTED = {"from": "Selector", "selector": {"matchLabels": {"edge": "yes"}}}
BY_LABELS = gateway(listener(allowedRoutes={"namespaces": SELECTED}))

WORLD: Mapping[str, Any] = {
    "gateway": ONLY_SAME,
    "pools": [POOL],
    "services": dict.fromkeys(PLACES, service(80)),
    "slices": dict.fromkeys(PLACES, slices("192.0.2.1")),
    "grants": [grant("other", "default", kind="Service")],
    "namespaces": {"default": {"edge": "yes"}, "far": {}},
}
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "a pool goes": {"pools": []},
    "another pool comes": {"pools": [POOL, PoolName("default", "other")]},
    "a Service goes": {"services": {PLACES[1]: service(80)}},
    "a Service gets another port": {"services": dict.fromkeys(PLACES, service(81))},
    "endpoints change": {"slices": {PLACES[0]: slices("192.0.2.2")}},
    "a grant goes": {"grants": []},
    "a listener gets a hostname": {"gateway": gateway(listener(hostname="*.example.com"))},
    "a listener comes": {"gateway": gateway(listener(), listener("more", 81))},
    "another Gateway": {"gateway": gateway(name="back")},
    "namespaces are selected": {"gateway": BY_LABELS},
}


def contributions(resolution: GatewayResolution) -> Mapping[RouteName, Contribution]:
    assert resolution.kept is not None
    return resolution.kept.contributions


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_surroundings_is_never_missed(change: str) -> None:
    """The same route objects, as a watch has them."""
    after = {**WORLD, **CHANGES[change]}
    first = resolve(*ROUTES, **WORLD)
    assert resolve(*ROUTES, previous=first, **after) == resolve(*ROUTES, **after)
    # And back.
    second = resolve(*ROUTES, previous=first, **after)
    assert resolve(*ROUTES, previous=second, **WORLD) == first


def test_labels_of_namespaces_count() -> None:
    before = {**WORLD, "gateway": BY_LABELS}
    after = {**before, "namespaces": {"default": {}, "far": {"edge": "yes"}}}
    first = resolve(*ROUTES, **before)
    fresh = resolve(*ROUTES, **after)
    assert first != fresh
    assert resolve(*ROUTES, previous=first, **after) == fresh


def test_a_change_of_one_route_costs_one_contribution() -> None:
    first = resolve(*ROUTES, **WORLD)
    changed = route(rule(path("/changed"), to=[SERVICE]), name="web", generation=2)
    routes = [changed if one is ROUTES[1] else one for one in ROUTES]
    # As the sidecar makes it: equal, and not the same.
    world = {**WORLD, "services": {**WORLD["services"]}, "grants": [*WORLD["grants"]]}
    second = resolve(*routes, previous=first, **world)
    assert second == resolve(*routes, **WORLD)
    before, after = contributions(first), contributions(second)
    new = [name for name in after if after[name] is not before[name]]
    assert new == [RouteName("default", "web")]


def test_a_route_that_goes_takes_what_it_wanted_with_it() -> None:
    first = resolve(*ROUTES, **WORLD)
    assert first.references.services == {*PLACES}
    second = resolve(*ROUTES[:2], previous=first, **WORLD)
    assert second.references.services == {PLACES[0]}
    assert second == resolve(*ROUTES[:2], **WORLD)
