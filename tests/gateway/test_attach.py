"""Which routes attach to which listeners, and what their status says."""

from typing import Any

import pytest

from epp_client.gateway.statuses import RouteName
from tests.gateway.objects import (
    gateway,
    listener,
    of_listener,
    path,
    resolve,
    route,
    rows,
    rule,
    said,
)


def test_a_route_attaches_to_every_listener_that_its_parent_ref_leaves_open() -> None:
    two = gateway(listener("a", 80), listener("b", 8080))
    found = resolve(route(), gateway=two)
    assert [of_listener(found, name).attached_routes for name in "ab"] == [1, 1]
    assert rows(found.table, "http/80") == rows(found.table, "http/8080")


@pytest.mark.parametrize(
    ("reference", "attached"),
    [
        ({"sectionName": "a"}, [1, 0]),
        ({"port": 8080}, [0, 1]),
        ({"sectionName": "b", "port": 8080}, [0, 1]),
    ],
)
def test_a_parent_ref_may_name_a_listener_or_a_port(
    reference: dict[str, Any], attached: list[int]
) -> None:
    two = gateway(listener("a", 80), listener("b", 8080))
    found = resolve(route(parents=[{"name": "front", **reference}]), gateway=two)
    assert [of_listener(found, name).attached_routes for name in "ab"] == attached


@pytest.mark.parametrize("reference", [{"sectionName": "c"}, {"port": 81}])
def test_a_parent_ref_to_no_listener_is_refused(reference: dict[str, Any]) -> None:
    found = resolve(route(parents=[{"name": "front", **reference}]))
    accepted = said(found)["Accepted"]
    assert (accepted.status, accepted.reason) == ("False", "NoMatchingParent")
    assert of_listener(found).attached_routes == 0
    assert not list(found.table.entries())


@pytest.mark.parametrize(
    ("allowed", "namespaces", "status"),
    [
        ({}, {}, "False"),
        ({"namespaces": {"from": "Same"}}, {}, "False"),
        ({"namespaces": {"from": "None"}}, {}, "False"),
        ({"namespaces": {"from": "All"}}, {}, "True"),
        (
            {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}},
            {"other": {"team": "a"}},
            "True",
        ),
        (
            {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}},
            {"other": {"team": "b"}},
            "False",
        ),
        (
            {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}},
            {},
            "False",
        ),
        (
            {
                "namespaces": {
                    "from": "Selector",
                    "selector": {
                        "matchExpressions": [
                            {"key": "team", "operator": "NotIn", "values": ["b"]},
                            {"key": "env", "operator": "Exists"},
                            {"key": "old", "operator": "DoesNotExist"},
                        ]
                    },
                }
            },
            {"other": {"env": "prod"}},
            "True",
        ),
    ],
)
def test_routes_of_other_namespaces_need_the_listeners_permission(
    allowed: dict[str, Any], namespaces: dict[str, dict[str, str]], status: str
) -> None:
    one = gateway(listener(allowedRoutes=allowed))
    away = route(namespace="other", parents=[{"name": "front", "namespace": "default"}])
    found = resolve(away, gateway=one, namespaces=namespaces)
    accepted = said(found, namespace="other")["Accepted"]
    assert accepted.status == status
    assert accepted.reason == ("Accepted" if status == "True" else "NotAllowedByListeners")
    # Labels are asked for only if somebody needs them.
    assert found.references.namespaces == ("Selector" in str(allowed))


def test_a_route_whose_hostnames_no_listener_has_is_refused() -> None:
    found = resolve(route(hostnames=["b.io"]), gateway=gateway(listener(hostname="a.io")))
    assert said(found)["Accepted"].reason == "NoMatchingListenerHostname"


def test_each_parent_ref_has_its_own_verdict() -> None:
    two = gateway(listener("a", 80, hostname="a.io"), listener("b", 81, hostname="b.io"))
    parents = [{"name": "front", "sectionName": "a"}, {"name": "front", "sectionName": "b"}]
    found = resolve(route(hostnames=["a.io"], parents=parents), gateway=two)
    assert said(found, parent=0)["Accepted"].status == "True"
    assert said(found, parent=1)["Accepted"].status == "False"
    status = found.statuses.routes[RouteName("default", "chat")]
    assert [parent.reference for parent in status.parents] == parents


def test_a_route_that_names_a_listener_twice_is_attached_once() -> None:
    found = resolve(route(parents=[{"name": "front"}, {"name": "front", "sectionName": "http"}]))
    assert of_listener(found).attached_routes == 1
    assert len(rows(found.table)) == 1


def test_routes_of_other_gateways_have_no_status_of_ours() -> None:
    others = [
        route(name="a", parents=[{"name": "other"}]),
        route(name="b", parents=[{"name": "front", "namespace": "away"}]),
        route(name="c", parents=[{"name": "front", "kind": "Service", "group": ""}]),
    ]
    found = resolve(*others)
    assert not found.statuses.routes
    assert not list(found.table.entries())


def test_an_accepted_route_keeps_the_generation_it_was_read_with() -> None:
    found = resolve(route(generation=7))
    assert found.statuses.routes[RouteName("default", "chat")].generation == 7


def test_a_rule_that_cannot_be_served_costs_its_own_requests_alone() -> None:
    bad = rule(path("/bad"), filters=[{"type": "ExtensionRef"}])
    found = resolve(route(rule(path("/good")), bad))
    conditions = said(found)
    assert conditions["Accepted"].status == "True"
    assert conditions["PartiallyInvalid"].status == "True"
    assert "spec.rules[1].filters[0].type" in conditions["PartiallyInvalid"].message
    by_path = {entry.match.path.value: entry.action for entry in rows(found.table)}
    assert by_path["/bad"].backends == ()  # type: ignore[union-attr]
    assert by_path["/good"].backends != ()  # type: ignore[union-attr]
    assert any("ExtensionRef" in problem.text for problem in found.problems)


def test_a_route_without_a_rule_that_can_be_served_is_not_accepted() -> None:
    found = resolve(route(rule(filters=[{"type": "CORS"}])))
    conditions = said(found)
    assert (conditions["Accepted"].status, conditions["Accepted"].reason) == (
        "False",
        "UnsupportedValue",
    )
    assert "PartiallyInvalid" not in conditions


def test_what_is_ignored_is_said() -> None:
    found = resolve(route(rule(retry={"attempts": 3})))
    assert said(found)["Accepted"].status == "True"
    assert "spec.rules[0].retry" in said(found)["Accepted"].message


def test_a_route_of_the_wrong_structure_is_refused_with_the_place() -> None:
    broken = route()
    broken["spec"]["rules"] = "all"
    found = resolve(broken, route(name="good"))
    assert said(found, "good")["Accepted"].status == "True"
    assert any(problem.field == "spec.rules" for problem in found.problems)
