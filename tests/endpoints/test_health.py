"""Which results of checks make an endpoint ready."""

import pytest

from epp_client.endpoints.health import EndpointHealth, State, Thresholds, checked

TABLE = [
    # Results, `+` or `-`; the state after them, `?`, `H` or `U`; thresholds.
    ("+", "H", Thresholds(3, 3)),
    ("---", "???", Thresholds(2, 2)),
    ("--+", "??H", Thresholds(5, 1)),
    ("+---", "HHHU", Thresholds(2, 3)),
    ("+--+--", "HHHHHH", Thresholds(2, 3)),
    ("+-", "HU", Thresholds(2, 1)),
    ("+-++", "HUUH", Thresholds(2, 1)),
    ("+-+-++", "HUUUUH", Thresholds(2, 1)),
    ("+-+", "HUH", Thresholds(1, 1)),
    ("+--++--", "HHUUHHU", Thresholds(2, 2)),
]
STATES = {"?": State.UNTESTED, "H": State.HEALTHY, "U": State.UNHEALTHY}


@pytest.mark.parametrize(("results", "states", "thresholds"), TABLE)
def test_results_in_a_row_change_the_state(
    results: str, states: str, thresholds: Thresholds
) -> None:
    health, seen = EndpointHealth(), []
    for result in results:
        health = checked(health, "" if result == "+" else "connection refused", thresholds)
        seen.append(health.state)
        assert health.ready == (health.state is State.HEALTHY)
    assert seen == [STATES[sign] for sign in states]


@pytest.mark.parametrize(
    ("results", "problem"),
    [
        ((), "is not ready: not checked yet"),
        (("refused",), "is not ready: refused"),
        (("",), ""),
        (("", "refused"), ""),
        (("", "refused", "slow"), "is not ready: slow"),
        (("", "refused", "slow", ""), "is not ready: too few successful checks"),
        (("", "refused", "slow", "", ""), ""),
    ],
)
def test_the_problem_says_why_it_is_not_ready(results: tuple[str, ...], problem: str) -> None:
    health = EndpointHealth()
    for failure in results:
        health = checked(health, failure, Thresholds(2, 2))
    assert health.problem == problem
