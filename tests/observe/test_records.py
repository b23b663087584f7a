"""The last decisions: which are kept, and who sees which."""

import pytest

from epp_client.errors import Reason
from epp_client.metrics.decisions import Decision, Gathered, News, Traffic, as_json
from epp_client.observe.records import KEPT, Filter, Records, record_json
from epp_client.picker.health import AddressNote
from epp_client.relay.outcome import Outcome

GOOD = Decision(1.0, "default/llama", Outcome.STEERED, None, picked="10.0.0.1:8000")
BAD = Decision(2.0, "default/qwen", Outcome.REFUSED, Reason.PICKER_TIMEOUT, request_id="r-1")


def test_good_requests_push_no_failure_out() -> None:
    records = Records()
    records.add([BAD, *[GOOD] * (3 * KEPT)], missed=4)
    kept = records.since()
    assert sum(record.decision.failed for record in kept) == 1
    assert len(kept) == KEPT + 1
    assert (records.last, records.missed) == (3 * KEPT + 1, 4)


def test_numbers_follow_time_and_each_is_told_once() -> None:
    records = Records()
    records.add([BAD, GOOD], 0)
    first = records.since()
    assert [record.decision.at for record in first] == [1.0, 2.0]
    records.add([BAD], 0)
    assert [record.number for record in records.since(first[-1].number)] == [3]


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        (Filter(), [GOOD, BAD]),
        (Filter(failed=True), [BAD]),
        (Filter(pool="default/llama"), [GOOD]),
        (Filter(reason="picker_timeout"), [BAD]),
        (Filter(endpoint="10.0.0.1:8000"), [GOOD]),
        (Filter(request_id="r-1"), [BAD]),
        (Filter(pool="default/llama", failed=True), []),
    ],
)
def test_a_filter(wanted: Filter, seen: list[Decision]) -> None:
    assert [one for one in (GOOD, BAD) if wanted.wants(one)] == seen


@pytest.mark.parametrize(
    ("decision", "is_failure"),
    [
        (GOOD, False),
        (BAD, True),
        (GOOD._replace(endpoint_failure=Reason.ENDPOINT_TIMEOUT), True),
        (GOOD._replace(outcome=Outcome.EVICTED), True),
        (GOOD._replace(outcome=Outcome.FAILED_OPEN, reason=Reason.PICKER_ERROR), True),
        (GOOD._replace(outcome=Outcome.REFUSED_BY_PICKER), False),
        (GOOD._replace(outcome=Outcome.CANCELLED), False),
    ],
)
def test_what_counts_as_a_failure(decision: Decision, is_failure: bool) -> None:
    assert decision.failed is is_failure


def test_empty_fields_are_left_out() -> None:
    records = Records()
    records.add([BAD], 0)
    assert record_json(records.since()[0]) == {
        "number": 1,
        "at": 2.0,
        "pool": "default/qwen",
        "outcome": "refused",
        "reason": "picker_timeout",
        "request_id": "r-1",
        "failed": True,
    }
    assert as_json(GOOD)["failed"] is False


def test_news_of_several_processes_are_gathered_and_bounded() -> None:
    one = Traffic()
    one.picked, one.served = 2, 1
    notes = {"default/llama": {"10.0.0.9:9002": AddressNote("refused", 5.0, None)}}
    older = {"default/llama": {"10.0.0.9:9002": AddressNote("", 0.0, 0.001)}}
    gathered = Gathered()
    gathered.add(News([GOOD] * 1_999, 0, {"default/llama": {"e": one}}, notes))
    gathered.add(News([GOOD, BAD, BAD], 1, {"default/llama": {"e": one}}, older))
    news = gathered.take()
    assert (len(news.decisions), news.missed) == (2_000, 3)
    assert (news.traffic["default/llama"]["e"].picked, one.picked) == (4, 2)
    assert news.pickers["default/llama"]["10.0.0.9:9002"].error == "refused"
    assert gathered.take() == News([], 0, {}, {})
