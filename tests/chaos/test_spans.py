"""The judgement of requests for changing routes: the old or the new state, and nothing else."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from chaos.account import Line, account
from chaos.promise import PROMISES
from chaos.route_faults import ROUTE_FAULTS
from chaos.spans import CUT, GONE, REFUSED, Timeline
from chaos.subjects import SUBJECTS
from chaos.workload import CORRUPT, Ask, for_subject, requests

LINE = Line(
    1, "open", "1 KB", "", 1, 10.0, 10.5, 11.0, "answered", 200, "", "a", "", "weights", "1 open"
)
NO_ROUTE = replace(LINE, outcome="lost", status=404, answer="404", detail="404: ")


def changed(old: str, new: str, at: float, seen: float) -> Timeline:
    """A subject whose state changes: written at `at`, in force at `seen`."""
    timeline = Timeline()
    timeline.open("weights", [old], 0.0)
    timeline.open("weights", [new], at)
    timeline.close("weights", seen)
    return timeline


def breaches(timeline: Timeline, line: Line) -> list[str]:
    found = account([line], [], PROMISES, timeline.why_wrong)
    return [breach.why for breach in found.breaches]


@pytest.mark.parametrize(
    ("answer", "written", "seen", "right"),
    [
        # The request was routed between 10.0 and 10.5.
        ("1 open", 10.2, 10.3, True),
        ("2 open", 10.2, 10.3, True),
        ("1 open", 9.0, 10.1, True),
        ("1 open", 9.0, 9.9, False),
        ("2 open", 10.6, 10.7, False),
        ("3 open", 10.2, 10.3, False),
        ("200", 10.2, 10.3, False),
    ],
)
def test_a_request_gets_a_state_that_was_in_force_while_it_was_routed(
    answer: str, written: float, seen: float, right: bool
) -> None:
    found = breaches(changed("1 open", "2 open", written, seen), replace(LINE, answer=answer))
    assert (found == []) == right
    assert right or found[0].startswith("misrouted: the answer of weights was")


def test_a_state_may_have_several_answers() -> None:
    timeline = Timeline()
    timeline.open("weights", ["1 open", "1 observe"], 0.0)
    assert breaches(timeline, replace(LINE, answer="1 observe")) == []
    assert breaches(timeline, replace(LINE, answer="1 close")) != []


def test_a_change_that_overtakes_others_ends_them_all() -> None:
    timeline = Timeline()
    for at, answer in enumerate(("1", "2", "3")):
        timeline.open("weights", [answer], at)
    timeline.close("weights", 9.0)
    assert [breaches(timeline, replace(LINE, answer=a)) == [] for a in ("1", "2", "3")] == [
        False, False, True,
    ]  # fmt: skip


def test_a_404_is_right_only_while_there_is_no_route() -> None:
    found = account([NO_ROUTE], [], PROMISES, changed("1 open", "404", 9.0, 9.9).why_wrong)
    assert (found.breaches, found.total.refused) == ([], {"404, as the route says": 1})
    assert breaches(changed("404", "1 open", 9.0, 9.9), NO_ROUTE) == ["lost: 404: "]
    assert breaches(changed("1 open", "404", 11.1, 11.2), NO_ROUTE) == ["lost: 404: "]


@pytest.mark.parametrize("answer", [CUT, REFUSED])
def test_a_removed_listener_may_cut_what_is_open(answer: str) -> None:
    lost = replace(LINE, outcome="lost", status=None, answer=answer, detail="reset")
    # It began before, and its response too.
    gone = Timeline()
    gone.open("weights", ["1 open"], 0.0)
    gone.open("weights", GONE, 10.8)
    assert breaches(gone, lost) == []
    assert breaches(gone, replace(lost, ended=10.7)) == ["lost: reset"]


def test_no_route_excuses_a_wrong_body() -> None:
    timeline = changed("1 open", "404", 9.0, 9.9)
    wrong = replace(NO_ROUTE, detail=f"{CORRUPT}another body", answer="200", status=200)
    assert breaches(timeline, wrong) == [f"lost: {CORRUPT}another body"]


def test_requests_for_the_pools_own_routes_are_judged_without_states() -> None:
    line = replace(LINE, subject="", answer="pool open")
    assert breaches(Timeline(), line) == []
    assert breaches(Timeline(), replace(NO_ROUTE, subject="")) == ["lost: 404: "]


def test_every_change_has_a_promise() -> None:
    assert {fault.name for fault in ROUTE_FAULTS} <= PROMISES.keys()


def test_requests_are_for_every_subject_if_there_are_any() -> None:
    asked = requests(1, 0.2, ranked=True, subjects=[*SUBJECTS])
    found = [next(asked) for _ in range(500)]
    assert {request.subject for request in found} == {"", *SUBJECTS}
    assert all(not request.subject for request in _first(requests(1, 0.2, ranked=True)))


def _first(asked: Iterator[Ask]) -> list[Ask]:
    return [next(asked) for _ in range(100)]


def test_a_request_for_a_subject_has_its_path_port_and_headers() -> None:
    plain = Ask(1, "close", "1 KB", "silent", 7)
    other = for_subject(plain, "other-hostname")
    assert (other.path, other.headers["host"]) == ("/hostnames/echo", "b.example.com")
    assert (other.pool, other.dialect) == ("open", "silent")
    # Nobody asks a picker there.
    assert for_subject(plain, "service").dialect == ""
    assert for_subject(plain, "certificate").port == "tls"
