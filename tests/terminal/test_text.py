"""Numbers, times and foreign text for people."""

from datetime import UTC, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_client.terminal import text


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(foreign: str) -> None:
    assert text.clean(foreign).isprintable()


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("team/llama", "team/llama"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\r\nb", "a\\r\\nb"),
        ("\u202eevil", "\\u202eevil"),
        ("größe", "größe"),
        (7, "7"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_foreign_text(foreign: Any, shown: str) -> None:
    assert text.clean(foreign) == shown


def test_a_time_has_24_hours_and_its_zone() -> None:
    assert text.clock(1_800_000_000.25, UTC) == "08:00:00+0000"
    assert text.clock(1_800_000_000.25, timezone(timedelta(hours=9)), millis=True) == (
        "17:00:00.250+0900"
    )
    # This machine's zone.
    assert len(text.clock(0)) == len("08:00:00+0000")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (7_265, "2 h 1 min"),
        (90_061, "1 d 1 h"),
    ],
)
def test_a_length_of_time(seconds: float, said: str) -> None:
    assert text.span(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (0.0, "0 ms"),
        (0.00057, "0.57 ms"),
        (0.0021, "2.1 ms"),
        (0.0421, "42 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.0 s"),
        (12.34, "12.3 s"),
        (120.0, "120 s"),
    ],
)
def test_a_latency(seconds: float | None, said: str) -> None:
    assert text.latency(seconds) == said


@pytest.mark.parametrize(
    ("count", "seconds", "said"),
    [(5, 0, "-"), (0, 60, "0.0"), (90, 60, "1.5"), (60_000, 60, "1,000")],
)
def test_a_rate(count: int, seconds: float, said: str) -> None:
    assert text.rate(count, seconds) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 0, "-"),
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (1, 3, "33.3 %"),
        (1, 100_000, "0.1 %"),
        (99_999, 100_000, "99.9 %"),
    ],
)
def test_a_share_is_all_or_none_only_if_it_is(part: int, whole: int, said: str) -> None:
    assert text.share(part, whole) == said


def test_the_main_reason_is_that_of_most_requests() -> None:
    refused, opened = {"a": 2, "b": 3}, {"a": 2}
    assert text.main_reason(refused, opened) == "a"
    assert text.main_reason(refused, None) == "b"
    assert text.main_reason() == ""
    assert (text.total(refused), text.total({}), text.total(None)) == (5, 0, 0)


def test_words_for_numbers() -> None:
    assert [text.some(n, "Envoy") for n in (0, 1.0, 2_000)] == [
        "0 Envoys",
        "1 Envoy",
        "2,000 Envoys",
    ]
