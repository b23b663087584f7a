"""Our entry among others': what is foreign stays as it is."""

import copy
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.gateway.statuses import Condition
from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.status.conditions import (
    PoolFacts,
    Reason,
    Relation,
    conditions,
)
from epp_client.kubernetes.status.merge import MAX_CONDITIONS, MAX_PARENTS, Parent, merge
from epp_client.kubernetes.status.routes import GATEWAY_GROUP

ME = Parent(GatewayName("infra", "edge"), "epp-client.dev/gateway")
WANTED = conditions(PoolFacts(), Relation(named=True), ME.gateway)
NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"


def pool(*parents: dict[str, Any], generation: int = 1) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "apps", "name": "llama", "generation": generation},
        "status": {"parents": list(parents)},
    }


def written(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {
        "parentRef": ME.reference(),
        "controllerName": ME.controller,
        "conditions": list(conditions),
    }


def other(name: str = "edge", controller: str = "example.com/gw", **more: Any) -> dict[str, Any]:
    return {
        "parentRef": {"name": name, "namespace": "infra"},
        "controllerName": controller,
        "conditions": [],
        **more,
    }


def foreign(type: str) -> dict[str, Any]:
    return {"type": type, "status": "True", "reason": "R", "message": "", "extra": [1]}


def test_a_first_entry_comes_last_and_is_complete() -> None:
    merged = merge(pool(other()), ME, WANTED, NOW)
    assert merged.changed
    assert merged.problem is None
    assert merged.parents[0] == other()
    entry = merged.parents[1]
    assert entry["parentRef"] == {
        "group": GATEWAY_GROUP,
        "kind": "Gateway",
        "namespace": "infra",
        "name": "edge",
    }
    assert entry["controllerName"] == "epp-client.dev/gateway"
    assert [c["type"] for c in entry["conditions"]] == ["Accepted", "ResolvedRefs", "Exported"]
    assert entry["conditions"][0] == {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": WANTED[0].message,
        "observedGeneration": 1,
        "lastTransitionTime": NOW,
    }


def test_a_pool_that_never_had_a_status() -> None:
    bare = {"metadata": {"name": "llama", "namespace": "apps"}}
    assert merge(bare, ME, WANTED, NOW).changed
    assert not merge(bare, ME, None, NOW).changed


def test_a_new_generation_moves_no_transition_time() -> None:
    first = merge(pool(), ME, WANTED, NOW).parents[0]
    second = merge(pool(dict(first), generation=2), ME, WANTED, LATER).parents[0]
    assert {c["observedGeneration"] for c in second["conditions"]} == {2}
    assert {c["lastTransitionTime"] for c in second["conditions"]} == {NOW}


def test_a_transition_time_moves_with_the_status_and_not_with_the_reason() -> None:
    first = merge(pool(), ME, WANTED, NOW).parents[0]
    changed = (
        Condition("Accepted", "False", Reason.HTTP_ROUTE_NOT_ACCEPTED, "m"),
        Condition("ResolvedRefs", "True", Reason.RESOLVED_REFS, "other words"),
        Condition("Exported", "False", Reason.NOT_SUPPORTED, "m"),
    )
    second = merge(pool(dict(first)), ME, changed, LATER).parents[0]["conditions"]
    assert [c["lastTransitionTime"] for c in second] == [LATER, NOW, NOW]
    assert [c["reason"] for c in second] == [str(c.reason) for c in changed]


def test_an_entry_by_defaults_is_recognized() -> None:
    home = Parent(GatewayName("apps", "edge"), ME.controller)
    short = {"parentRef": {"name": "edge"}, "controllerName": ME.controller, "later": 1}
    merged = merge(pool(short), home, WANTED, NOW)
    assert len(merged.parents) == 1
    assert merged.parents[0]["parentRef"] == {"name": "edge"}
    assert merged.parents[0]["later"] == 1
    # that of another namespace
    assert merge(pool(short), ME, None, NOW).changed is False


def test_the_same_gateway_of_another_controller_and_without_a_controller_is_foreign() -> None:
    nameless = other()
    del nameless["controllerName"]
    merged = merge(pool(other(), nameless), ME, WANTED, NOW)
    assert list(merged.parents[:2]) == [other(), nameless]
    assert len(merged.parents) == 3
    assert not merge(pool(other(), nameless), ME, None, NOW).changed


def test_foreign_conditions_in_our_entry_stay_in_their_place() -> None:
    ours = written(foreign("Programmed"), foreign("Accepted"), foreign("Healthy"))
    found = merge(pool(ours), ME, WANTED, NOW).parents[0]["conditions"]
    types = ["Programmed", "Accepted", "Healthy", "ResolvedRefs", "Exported"]
    assert [c["type"] for c in found] == types
    assert (found[0], found[2]) == (foreign("Programmed"), foreign("Healthy"))


def test_foreign_conditions_leave_room_for_the_most_important_of_ours() -> None:
    ours = written(*(foreign(f"C{index}") for index in range(7)))
    merged = merge(pool(ours), ME, WANTED, NOW)
    assert [c["type"] for c in merged.parents[0]["conditions"]][7:] == ["Accepted"]
    assert merged.problem is not None
    assert "ResolvedRefs, Exported" in merged.problem


def test_a_full_list_is_left_as_it_is_and_said_to_be_full() -> None:
    full = pool(*(other(f"gw{index}") for index in range(MAX_PARENTS)))
    merged = merge(full, ME, WANTED, NOW)
    assert not merged.changed
    assert merged.parents == full["status"]["parents"]
    assert merged.problem is not None
    assert "full (32 entries)" in merged.problem


def test_in_a_full_list_our_entry_is_kept_up_to_date() -> None:
    full = pool(*(other(f"gw{index}") for index in range(MAX_PARENTS - 1)), written())
    merged = merge(full, ME, WANTED, NOW)
    assert merged.changed
    assert merged.problem is None
    assert len(merged.parents) == MAX_PARENTS


def test_our_entry_twice_becomes_one() -> None:
    merged = merge(pool(written(), other(), written()), ME, WANTED, NOW)
    assert len(merged.parents) == 2
    assert merged.parents[1] == other()


# --- for any status that somebody may have written ---

_names = st.sampled_from(["edge", "other"])
_json = st.sampled_from([None, 1.5, "é", [1, {"a": None}], {"": [], "x": {"y": True}}])
_conditions = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["Accepted", "ResolvedRefs", "Exported", *"ABCDEFGH"]),
            "status": st.sampled_from(["True", "False", "Unknown"]),
        },
        optional={"lastTransitionTime": st.just(NOW), "extra": _json},
    ),
    max_size=MAX_CONDITIONS,
    unique_by=lambda condition: str(condition["type"]),
)
_entries = st.fixed_dictionaries(
    {
        "parentRef": st.fixed_dictionaries(
            {"name": _names},
            optional={
                "namespace": st.sampled_from(["infra", "apps"]),
                "kind": st.sampled_from(["Gateway", "Service"]),
                "group": st.sampled_from([GATEWAY_GROUP, ""]),
            },
        )
    },
    optional={
        "controllerName": st.sampled_from([ME.controller, "example.com/gw"]),
        "conditions": _conditions,
        "extra": _json,
    },
)
_wanted = st.one_of(
    st.none(),
    st.builds(
        lambda statuses: tuple(
            Condition(type, status, Reason.ACCEPTED, "m")
            for type, status in zip(("Accepted", "ResolvedRefs", "Exported"), statuses, strict=True)
        ),
        st.tuples(*[st.sampled_from(["True", "False", "Unknown"])] * 3),
    ),
)


@settings(deadline=None)
@given(
    st.lists(_entries, max_size=5),
    st.sampled_from([0, 0, MAX_PARENTS - 6, MAX_PARENTS - 5]),
    _wanted,
)
def test_merging_never_touches_foreign_entries_and_is_idempotent(
    parents: list[dict[str, Any]], more: int, wanted: tuple[Condition, ...] | None
) -> None:
    parents += [other(f"gw{index}") for index in range(more)]
    before = pool(*parents)
    untouched = copy.deepcopy(before)
    merged = merge(before, ME, wanted, NOW)
    assert before == untouched
    assert merged.changed == (list(merged.parents) != parents)

    def foreign_of(entries: Any) -> list[Any]:
        return [entry for entry in entries if not ME.owns(entry, "apps")]

    def ours_of(entries: Any) -> list[Any]:
        return [entry for entry in entries if ME.owns(entry, "apps")]

    # The very objects, so that nothing in them can have changed, and in their order.
    kept = foreign_of(merged.parents)
    assert all(a is b for a, b in zip(kept, foreign_of(parents), strict=True))
    assert len(merged.parents) <= MAX_PARENTS
    if wanted is None:
        assert ours_of(merged.parents) == []
    elif merged.problem is None:
        (entry,) = ours_of(merged.parents)
        held = {c["type"]: c["status"] for c in entry["conditions"]}
        assert all(held[c.type] == c.status for c in wanted)
        types = {c.type for c in wanted}
        old: Mapping[str, Any] = next(iter(ours_of(parents)), {})
        assert [c for c in entry["conditions"] if c["type"] not in types] == [
            c for c in old.get("conditions", ()) if c["type"] not in types
        ]
    for entry in ours_of(merged.parents):
        assert len(entry["conditions"]) <= MAX_CONDITIONS

    again = merge(pool(*map(dict, merged.parents)), ME, wanted, LATER)
    assert not again.changed
    assert list(again.parents) == list(merged.parents)
