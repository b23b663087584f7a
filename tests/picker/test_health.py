"""What opens and closes an address's breaker, as a table of what happened and what came of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_client.picker.health import FAILURES, JITTER, AddressHealth, Health, pace

SERVING, NOT_SERVING, UNKNOWN = Health.SERVING, Health.NOT_SERVING, Health.UNKNOWN


def after(*events: str) -> AddressHealth:
    """The health of an address after `events`, each a second after the one before."""
    health = AddressHealth()
    for now, event in enumerate(events):
        match event:
            case "serving" | "not_serving" | "unknown":
                health.checked(Health(event), now)
            case "unanswered":
                health.unanswered(now)
            case "refused":
                health.connect_failed()
            case "picked":
                health.picked()
            case "failed":
                health.pick_failed(now)
            case "failed in a row":
                for _ in range(FAILURES):
                    health.pick_failed(now)
            case "on trial":
                assert health.begin_trial()
            case "hung up":
                health.trial_undecided()
            case "a minute":
                health.checked(Health.SERVING, now + 60)
            case _:
                raise AssertionError(event)
    return health


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], Health.UNTRIED),
        (["serving"], SERVING),
        (["unknown"], UNKNOWN),
        (["not_serving"], NOT_SERVING),
        (["not_serving", "serving"], SERVING),
        # A failed connection is disproved by a connection, whose check has been answered.
        (["refused"], Health.UNREACHABLE),
        (["serving", "refused"], Health.UNREACHABLE),
        (["refused", "unknown"], UNKNOWN),
        (["refused", "not_serving"], NOT_SERVING),
        # Silence is disproved by an answer.
        (["serving", "unanswered"], Health.SILENT),
        (["unknown", "unanswered"], Health.SILENT),
        (["serving", "unanswered", "serving"], SERVING),
        (["serving", "unanswered", "refused"], Health.UNREACHABLE),
        (["unanswered"], UNKNOWN),
        (["unanswered", "unanswered", "unanswered"], UNKNOWN),
        # Failed picks are disproved by a pick.
        (["serving", "failed"], SERVING),
        (["serving", *["failed", "failed", "picked"] * FAILURES], SERVING),
        (["serving", "failed in a row"], Health.FAILING),
        (["serving", "failed in a row", "picked"], SERVING),
        (["serving", "failed in a row", "serving"], Health.TRIAL),
        (["serving", "failed in a row", "serving", "on trial", "picked"], SERVING),
        (["serving", "failed in a row", "serving", "on trial", "failed"], Health.FAILING),
        (
            ["serving", "failed in a row", "serving", "on trial", "failed", "serving"],
            Health.FAILING,
        ),
        (["serving", "failed in a row", "serving", "on trial", "failed", "a minute"], Health.TRIAL),
        (
            ["serving", "failed in a row", "serving", "on trial", "hung up", "on trial"],
            Health.TRIAL,
        ),
        (["serving", "failed in a row", "unanswered"], Health.FAILING),
        (["serving", "failed in a row", "not_serving"], NOT_SERVING),
        (["unanswered", "failed in a row", "unanswered"], Health.TRIAL),
        (["serving", "failed in a row", "serving", "unanswered"], Health.SILENT),
        (["not_serving", "failed in a row"], NOT_SERVING),
    ],
)
def test_what_becomes_of_an_address(events: list[str], state: Health) -> None:
    assert after(*events).state is state


def test_only_one_request_is_on_trial() -> None:
    health = after("serving", "failed in a row", "serving")
    assert health.begin_trial()
    assert not health.begin_trial()
    assert not after("serving").begin_trial()


def test_connecting_becomes_rarer_and_starts_anew_after_an_answer() -> None:
    health = AddressHealth()
    waits = []
    for _ in range(10):
        health.connect_failed()
        waits.append(health.retry_after)
    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits[-1] == 2.0
    health.checked(SERVING, 0)
    health.connect_failed()
    assert health.retry_after == 0.1


@given(st.floats(min_value=2, max_value=3600))
def test_a_hang_is_found_out_before_the_first_deadline(pick_timeout: float) -> None:
    interval, patience = pace(pick_timeout)
    assert interval * (1 + JITTER) + patience <= pick_timeout
    assert patience <= 3
    assert interval <= 2


@given(st.floats(min_value=0.001, max_value=2))
def test_with_impatient_pools_the_checks_stay_bounded(pick_timeout: float) -> None:
    interval, patience = pace(pick_timeout)
    assert interval >= 0.25
    assert patience >= 1
