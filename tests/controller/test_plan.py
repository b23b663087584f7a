"""What is applied and deleted."""

from typing import Any

from epp_client.controller.objects import objects_of
from epp_client.controller.plan import Applied, Apply, Delete, Situation, Step, noted, steps
from epp_client.gateway.world import Object
from epp_client.kubernetes.client.resources import DEPLOYMENT
from epp_client.kubernetes.status.subjects import Subject
from tests.controller.world import TEMPLATE, gateway, plane, stored

WANTED = objects_of(plane(), TEMPLATE)
SUBJECT = Subject(DEPLOYMENT, "web", "edge-epp-client")


def _steps(wanted: Any, observed: Any, **more: Any) -> list[Step]:
    return [*steps(Situation(wanted, observed, **more))]


def _settled() -> tuple[dict[Subject, Object], dict[Subject, Applied]]:
    """The objects as they are after an apply, and what is remembered of it."""
    observed = {subject: stored(data) for subject, data in WANTED.items()}
    applied = {s: noted(data, observed[s], stored(data, "0")) for s, data in WANTED.items()}
    return observed, applied


def test_all_is_applied_where_nothing_is_in_the_order_of_who_needs_whom() -> None:
    found = _steps(WANTED, {})
    assert found == [Apply(subject, data, known=False) for subject, data in WANTED.items()]


def test_after_a_restart_everything_is_applied_once_more() -> None:
    observed, _ = _settled()
    assert _steps(WANTED, observed) == [Apply(s, data, known=True) for s, data in WANTED.items()]


def test_nothing_is_done_when_all_is_as_it_was_applied() -> None:
    observed, applied = _settled()
    assert _steps(WANTED, observed, applied=applied) == []


def test_a_status_and_a_new_version_are_no_difference() -> None:
    observed, applied = _settled()
    observed[SUBJECT] = stored(WANTED[SUBJECT], "17", availableReplicas=2)
    assert _steps(WANTED, observed, applied=applied) == []


def test_a_change_by_somebody_else_is_taken_back() -> None:
    observed, applied = _settled()
    changed = {**WANTED[SUBJECT], "spec": {**WANTED[SUBJECT]["spec"], "paused": True}}
    observed[SUBJECT] = stored(changed, "17")
    assert _steps(WANTED, observed, applied=applied) == [
        Apply(SUBJECT, WANTED[SUBJECT], known=True)
    ]


def test_until_the_watch_has_an_apply_nothing_is_concluded_from_the_old_object() -> None:
    observed, applied = _settled()
    old = {**WANTED[SUBJECT], "spec": {}}
    observed[SUBJECT] = stored(old, "0")
    assert _steps(WANTED, observed, applied=applied) == []
    observed[SUBJECT] = stored(old, "1")
    assert len(_steps(WANTED, observed, applied=applied)) == 1


def test_until_the_watch_has_a_new_object_it_is_not_made_again() -> None:
    _, applied = _settled()
    applied = {s: one._replace(over="") for s, one in applied.items()}
    assert _steps(WANTED, {}, applied=applied) == []


def test_a_deleted_object_is_made_again_once_it_is_gone() -> None:
    observed, applied = _settled()
    metadata = {**observed[SUBJECT]["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    observed[SUBJECT] = {**observed[SUBJECT], "metadata": metadata}
    assert _steps(WANTED, observed, applied=applied) == []
    del observed[SUBJECT]
    assert _steps(WANTED, observed, applied=applied) == [
        Apply(SUBJECT, WANTED[SUBJECT], known=False)
    ]


def test_what_an_earlier_gateway_of_the_name_has_left_is_deleted_first() -> None:
    observed, applied = _settled()
    again = objects_of(plane(gateway(uid="uid-2")), TEMPLATE)
    assert {type(step) for step in _steps(again, observed, applied=applied)} == {Delete}


def test_what_is_not_wanted_any_more_is_deleted_unless_it_is_not_known_what_is_wanted() -> None:
    observed, applied = _settled()
    assert _steps({}, observed, applied=applied) == [Delete(s, "u") for s in WANTED]
    assert _steps({}, observed, applied=applied, kept=("web/edge",)) == []
    rest = {s: data for s, data in WANTED.items() if s != SUBJECT}
    assert _steps(rest, observed, applied=applied) == [Delete(SUBJECT, "u")]


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    observed, _ = _settled()
    metadata = {**observed[SUBJECT]["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert _steps({}, {SUBJECT: {**observed[SUBJECT], "metadata": metadata}}) == []
