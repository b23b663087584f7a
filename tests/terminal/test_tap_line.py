"""A decision in one line."""

from datetime import UTC

import pytest

from epp_client.errors import AdminUnreachable, Reason
from epp_client.metrics.decisions import Decision, as_json
from epp_client.relay.outcome import Eviction, Outcome
from epp_client.terminal.tap import LATE, REMEMBERED, Known, line, missed, parsed

AT = 1_800_000_000.25


def test_a_steered_request() -> None:
    decision = Decision(
        AT,
        "default/qwen",
        Outcome.STEERED,
        None,
        "id-1",
        picked="10.0.0.1:8000",
        said="10.0.0.1:8000",
        served="10.0.0.1:8000",
        pick_seconds=0.0031,
        seconds=1.25,
        model="m",
    )
    shown = line(as_json(decision), UTC).plain
    assert shown.split() == [
        "08:00:00.250+0000",
        "default/qwen",
        "steered",
        "10.0.0.1:8000",
        "pick",
        "3.1",
        "ms",
        "total",
        "1.2",
        "s",
        "model",
        "m",
        "id",
        "id-1",
    ]


def test_what_went_wrong_is_in_the_line() -> None:
    decision = Decision(
        AT,
        "a/b",
        Outcome.FAILED_OPEN,
        Reason.PICK_OUTSIDE_POOL,
        said="9.9.9.9:1",
        picked="10.0.0.1:8000",
        served="10.0.0.2:8000",
        endpoint_failure=Reason.ENDPOINT_TIMEOUT,
        retries=2,
        passed_over=1,
        passthrough=Reason.PICKER_CLOSED,
        eviction=Eviction.RESET,
        hint="pick-timeout",
    )
    shown = line(as_json(decision), UTC).plain
    for text in (
        "failed_open  pick_outside_pool 10.0.0.2:8000",
        "(picked 10.0.0.1:8000)",
        "endpoint_timeout",
        "picker said 9.9.9.9:1",
        "asked again 2",
        "endpoints passed over 1",
        "passthrough picker_closed",
        "eviction reset",
        "hint pick-timeout",
        "pick - total 0 ms",
        "id -",
    ):
        assert text in shown
    assert line({}).plain.endswith("id -")


def test_foreign_text_does_not_reach_the_terminal() -> None:
    foreign = {
        "pool": "\x1b[2J",
        "said": "\x1b]0;x\x07",
        "request_id": "\r\n",
        "model": "\x9b",
        "at": 0.0,
    }
    assert line(foreign).plain.isprintable()
    assert missed(3) == "3 more failures were not recorded: too many at once"


def test_lines_of_the_stream() -> None:
    assert parsed("") is None
    assert parsed('{"a": 1}') == {"a": 1}
    for text in ("<html>", "[1]"):
        with pytest.raises(AdminUnreachable, match="does not send the decisions"):
            parsed(text)


def decision(number: int) -> dict[str, object]:
    return {"at": number, "pool": "a/b", "request_id": str(number)}


def test_nothing_is_shown_twice_and_nothing_from_before_the_start() -> None:
    known = Known(start=100)
    # Asked for with --last.
    assert known.is_new(decision(50))
    assert known.is_new(decision(101))
    known.again()
    kept = [decision(n) for n in (40, 50, 60, 101, 102, 103)]
    assert [one["at"] for one in kept if known.is_new(one)] == [102, 103]
    known.again()
    assert not known.is_new(decision(103))
    # A worker may tell late.
    assert known.is_new({**decision(int(103 - LATE) + 1), "request_id": "late"})
    assert known.is_new({"missed": 3})
    assert known.is_new({"missed": 3})


def test_what_is_remembered_is_bounded() -> None:
    known = Known(0)
    for number in range(REMEMBERED + 10):
        assert known.is_new(decision(number))
    assert known.is_new(decision(0))
