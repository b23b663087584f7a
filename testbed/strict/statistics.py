"""How many requests a check of weights needs, and when fewer are enough to reject a gateway. Pure.

Requests are independent draws, so the number of one pool's is binomial. All probabilities are exact sums,
no approximations.
"""

import math
from functools import cache

TOLERANCE = 0.03
"""How far a share may be from its weight."""
FALSE_ALARM = 2e-7
"""Bound of the probability that one weight fails for a right gateway. Three weights are checked, and each
has early looks besides, so that all of them together stay below 1e-6."""
EARLY_FALSE_ALARM = 1e-9
"""The same for one early look."""
_STEP = 50
_MOST = 100_000


def _log_mass(hits: int, draws: int, share: float) -> float:
    ways = math.lgamma(draws + 1) - math.lgamma(hits + 1) - math.lgamma(draws - hits + 1)
    return ways + hits * math.log(share) + (draws - hits) * math.log1p(-share)


def _mass(first: int, last: int, draws: int, share: float) -> float:
    """The probability of `first` to `last` hits."""
    return math.fsum(math.exp(_log_mass(k, draws, share)) for k in range(first, last + 1))


def bounds(draws: int, share: float) -> tuple[int, int]:
    """The fewest and the most hits that are within the tolerance. A pool is never left out."""
    low = math.ceil(draws * (share - TOLERANCE) - 1e-9)
    high = math.floor(draws * (share + TOLERANCE) + 1e-9)
    return max(1, low), min(draws - 1, high)


def false_alarm(draws: int, share: float) -> float:
    """The probability that a gateway with exactly this share is out of bounds."""
    low, high = bounds(draws, share)
    return _mass(0, low - 1, draws, share) + _mass(high + 1, draws, draws, share)


@cache
def draws_for(share: float) -> int:
    """The fewest requests, in steps of 50, with which a right gateway fails with less than FALSE_ALARM.

    Raises:
        ValueError: no number is enough, as the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"{share} is no share of one of two pools")
    return next(n for n in range(_STEP, _MOST, _STEP) if false_alarm(n, share) < FALSE_ALARM)


def hopeless(hits: int, draws: int, share: float) -> bool:
    """Whether so many hits are so improbable for this share that more requests are not needed."""
    first, last = (0, hits) if hits < draws * share else (hits, draws)
    return _mass(first, last, draws, share) < EARLY_FALSE_ALARM
