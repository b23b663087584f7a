"""Our statuses of a Gateway, its class and its routes among those of others."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.gateway.statuses import (
    Condition,
    GatewayStatus,
    ListenerStatus,
    ParentStatus,
    RouteStatus,
)
from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.status.gateway_merge import (
    Address,
    ClassWanted,
    GatewayWanted,
    RouteWanted,
    before_acknowledgement,
)
from epp_client.kubernetes.status.merge import MAX_CONDITIONS, MAX_PARENTS, Parent
from epp_client.kubernetes.status.routes import GATEWAY_GROUP

EDGE = GatewayName("infra", "edge")
ME = Parent(EDGE, "epp-client.dev/gateway")
NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"
ACCEPTED = Condition("Accepted", "True", "Accepted")
PROGRAMMED = Condition("Programmed", "True", "Programmed")
BOTH = (ACCEPTED, PROGRAMMED)
HTTP = ListenerStatus("http", ("HTTPRoute",), 2, BOTH)


def edge(*listeners: ListenerStatus, generation: int = 1) -> GatewayStatus:
    return GatewayStatus(EDGE, generation, BOTH, listeners)


def gateway(**status: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "infra", "name": "edge"}, "status": status}


def route(*parents: dict[str, Any], namespace: str = "apps") -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": "chat", "generation": 1}
    return {"metadata": metadata, "status": {"parents": list(parents)}}


def reference(section: str | None = None, name: str = "edge") -> dict[str, Any]:
    ref = {"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": "infra", "name": name}
    return ref if section is None else {**ref, "sectionName": section}


def entry(
    section: str | None = None, name: str = "edge", controller: str = ME.controller
) -> dict[str, Any]:
    return {
        "parentRef": reference(section, name),
        "controllerName": controller,
        "conditions": [],
    }


def wanted(*sections: str | None) -> RouteWanted:
    parents = tuple(ParentStatus(reference(section), (ACCEPTED,)) for section in sections)
    return RouteWanted(ME, RouteStatus(1, parents))


# --- the Gateway ---


def test_what_the_api_server_puts_in_as_default_is_replaced() -> None:
    waiting = {"status": "Unknown", "reason": "Pending", "message": "Waiting for controller"}
    defaults = [
        {"type": kind, "lastTransitionTime": "1970-01-01T00:00:00Z", **waiting}
        for kind in ("Accepted", "Programmed")
    ]
    merged = GatewayWanted(edge(HTTP, generation=3)).merged(gateway(conditions=defaults), NOW)
    assert merged.changed
    assert merged.problem is None
    conditions = merged.status["conditions"]
    assert [(c["type"], c["status"]) for c in conditions] == [
        ("Accepted", "True"),
        ("Programmed", "True"),
    ]
    assert {c["observedGeneration"] for c in conditions} == {3}
    assert {c["lastTransitionTime"] for c in conditions} == {NOW}


def test_a_listener_says_how_many_routes_it_has_and_which_kinds_it_takes() -> None:
    (listener,) = GatewayWanted(edge(HTTP)).merged(gateway(), NOW).status["listeners"]
    assert listener["name"] == "http"
    assert listener["attachedRoutes"] == 2
    assert listener["supportedKinds"] == [{"group": GATEWAY_GROUP, "kind": "HTTPRoute"}]
    assert [c["type"] for c in listener["conditions"]] == ["Accepted", "Programmed"]


def test_listeners_come_and_go_with_the_spec() -> None:
    first = GatewayWanted(edge(HTTP)).merged(gateway(), NOW).status
    other = HTTP._replace(name="other")
    second = GatewayWanted(edge(other, HTTP)).merged(gateway(**first), LATER)
    assert [listener["name"] for listener in second.status["listeners"]] == ["other", "http"]
    times = [entry["conditions"][0]["lastTransitionTime"] for entry in second.status["listeners"]]
    assert times == [LATER, NOW]
    third = GatewayWanted(edge(other)).merged(gateway(**second.status), LATER)
    assert [listener["name"] for listener in third.status["listeners"]] == ["other"]


def test_addresses_of_somebody_else_are_left_alone() -> None:
    assert "addresses" not in GatewayWanted(edge()).merged(gateway(), NOW).status


def test_addresses_are_written_with_their_types() -> None:
    addresses = (Address("IPAddress", "10.0.0.1"), Address("Hostname", "gw.example.com"))
    merged = GatewayWanted(edge(), addresses).merged(gateway(), NOW)
    assert merged.status["addresses"] == [
        {"type": "IPAddress", "value": "10.0.0.1"},
        {"type": "Hostname", "value": "gw.example.com"},
    ]
    again = GatewayWanted(edge(), addresses).merged(gateway(**merged.status), LATER)
    assert not again.changed


def test_what_is_written_once_is_not_written_again() -> None:
    written = GatewayWanted(edge(HTTP)).merged(gateway(), NOW).status
    assert not GatewayWanted(edge(HTTP)).merged(gateway(**written), LATER).changed


def test_before_envoy_has_it_nothing_is_programmed() -> None:
    bad = ListenerStatus("tls", (), 0, (Condition("Programmed", "False", "Invalid", "m"),))
    found = before_acknowledgement(edge(HTTP, bad))
    pending = Condition(
        "Programmed", "False", "Pending", "No Envoy has acknowledged the configuration yet"
    )
    assert found.conditions == (ACCEPTED, pending)
    assert found.listeners[0].conditions == (ACCEPTED, pending)
    assert found.listeners[1] == bad


# --- its class ---


def test_a_class_keeps_the_conditions_of_others() -> None:
    other = {"type": "Healthy", "status": "True"}
    data = {"metadata": {"name": "epp"}, "status": {"conditions": [other]}}
    merged = ClassWanted(2, (ACCEPTED,)).merged(data, NOW)
    assert merged.status["conditions"][0] == other
    assert merged.status["conditions"][1]["observedGeneration"] == 2
    data["status"] = merged.status
    assert not ClassWanted(2, (ACCEPTED,)).merged(data, LATER).changed


# --- routes ---


def test_each_reference_to_the_gateway_has_an_entry() -> None:
    merged = wanted("a", "b").merged(route(), NOW)
    assert [e["parentRef"] for e in merged.status["parents"]] == [reference("a"), reference("b")]
    assert {e["controllerName"] for e in merged.status["parents"]} == {ME.controller}


def test_an_entry_goes_with_its_reference() -> None:
    others = [entry("a", "other"), entry("a", controller="example.com/gw")]
    merged = wanted("b").merged(route(entry("a"), *others, entry("b")), NOW)
    assert merged.status["parents"][:2] == others
    assert [e["parentRef"] for e in merged.status["parents"][2:]] == [reference("b")]
    gone = wanted().merged(route(entry("a"), *others), NOW)
    assert gone.changed
    assert gone.status["parents"] == others


def test_a_route_without_references_and_entries_is_not_written() -> None:
    assert not wanted().merged(route(entry("a", "other")), NOW).changed


def test_a_full_list_is_said_to_be_full() -> None:
    full = [entry(name=f"gw{index}") for index in range(MAX_PARENTS)]
    merged = wanted("a").merged(route(*full), NOW)
    assert not merged.changed
    assert merged.problem is not None
    assert "full (32 entries)" in merged.problem


def test_a_removed_entry_makes_room_for_a_new_one() -> None:
    rest = [entry(name=f"gw{index}") for index in range(MAX_PARENTS - 1)]
    merged = wanted("new").merged(route(entry("old"), *rest), NOW)
    assert merged.problem is None
    assert merged.status["parents"][-1]["parentRef"] == reference("new")


_conditions = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["Accepted", "ResolvedRefs", *"ABCDEFGH"]),
            "status": st.sampled_from(["True", "False", "Unknown"]),
        },
        optional={"lastTransitionTime": st.just(NOW)},
    ),
    max_size=MAX_CONDITIONS,
    unique_by=lambda condition: str(condition["type"]),
)
_entries = st.builds(
    lambda ref, controller, conditions: {
        "parentRef": ref,
        "controllerName": controller,
        "conditions": conditions,
    },
    st.builds(
        reference, st.sampled_from([None, "a", "b", "c"]), st.sampled_from(["edge", "other"])
    ),
    st.sampled_from([ME.controller, "example.com/gw"]),
    _conditions,
)
_sections = st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=4, unique=True)
_verdicts = st.sampled_from(["True", "False", "Unknown"])


@settings(deadline=None)
@given(
    st.lists(_entries, max_size=6),
    st.sampled_from([0, 0, MAX_PARENTS - 6, MAX_PARENTS - 3]),
    _sections,
    _verdicts,
)
def test_for_any_status_of_a_route(
    parents: list[dict[str, Any]], more: int, sections: list[str | None], status: str
) -> None:
    parents = (parents + [entry(name=f"gw{index}") for index in range(more)])[:MAX_PARENTS]
    before = route(*parents)
    untouched = copy.deepcopy(before)
    said = Condition("Accepted", status, "Because")
    want = RouteWanted(
        ME, RouteStatus(1, tuple(ParentStatus(reference(one), (said,)) for one in sections))
    )
    merged = want.merged(before, NOW)
    after = merged.status["parents"]
    assert before == untouched
    assert merged.changed == (after != parents)
    assert len(after) <= MAX_PARENTS

    def foreign(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for one in entries if not ME.owns(one, "apps")]

    ours = [one for one in after if ME.owns(one, "apps")]
    kept = zip(foreign(after), foreign(parents), strict=True)
    assert all(new is old for new, old in kept)
    places = [one["parentRef"].get("sectionName") for one in ours]
    assert len(places) == len(set(places))
    assert set(places) <= set(sections)
    if merged.problem is None:
        assert set(places) == set(sections)
        for one in ours:
            held = {c["type"]: c["status"] for c in one["conditions"]}
            assert held["Accepted"] == status
            assert len(one["conditions"]) <= MAX_CONDITIONS
    assert not want.merged(route(*after), LATER).changed


@settings(deadline=None)
@given(_conditions, st.lists(st.sampled_from("xyz"), unique=True), _verdicts)
def test_for_any_status_of_a_gateway(
    conditions: list[dict[str, Any]], names: list[str], status: str
) -> None:
    said = (Condition("Accepted", status, "Because"),)
    listeners = tuple(ListenerStatus(name, (), 0, said) for name in names)
    want = GatewayWanted(GatewayStatus(EDGE, 1, said, listeners))
    merged = want.merged(gateway(conditions=conditions), NOW)
    after = merged.status["conditions"]
    assert [c for c in after if c["type"] != "Accepted"] == [
        c for c in conditions if c["type"] != "Accepted"
    ]
    assert len(after) <= MAX_CONDITIONS
    for old in conditions:
        new = next(c for c in after if c["type"] == old["type"])
        if old["status"] == new["status"] and "lastTransitionTime" in old:
            assert new["lastTransitionTime"] == old["lastTransitionTime"]
    assert not want.merged(gateway(**merged.status), LATER).changed


@pytest.mark.parametrize("want", [wanted("a"), GatewayWanted(edge()), ClassWanted(1, BOTH)])
def test_the_log_has_the_conditions_in_a_few_words(want: Any) -> None:
    assert "Accepted=True (Accepted)" in want.summary()


def test_the_log_says_that_an_entry_went() -> None:
    assert "removed" in wanted().summary()
