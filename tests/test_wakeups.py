"""Pauses that end together."""

import pytest

from epp_client.wakeups import until_next


@pytest.mark.parametrize(
    ("now", "interval", "left"),
    [
        (100.1, 0.5, 0.4),
        (100.6, 1.0, 0.4),
        (100.0, 1.0, 1.0),
        # A pause is never too short: a timer may ring a moment early.
        (100.8, 1.0, 1.2),
        (99.999, 0.5, 0.501),
    ],
)
def test_a_pause_ends_at_a_multiple_of_its_length(now: float, interval: float, left: float) -> None:
    assert until_next(now, interval) == pytest.approx(left)
