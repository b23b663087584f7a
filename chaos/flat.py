"""Whether a curve is flat: the median of the slopes between its points; outliers do not move it. Pure."""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

MOST_POINTS = 240
"""Points that a curve is thinned to: their pairs are compared."""


class Trend(NamedTuple):
    """What a curve does after the warm-up."""

    level: float
    """Its median."""
    growth: float
    """What it gains from the end of the warm-up to the end, by the median slope."""
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it gains less than is allowed."""
        return self.growth <= self.allowed

    @property
    def says(self) -> str:
        """In words."""
        verdict = "flat" if self.flat else "NOT FLAT"
        return f"{verdict}: {self.growth:+.2f} at a level of {self.level:.1f}"


Points = list[tuple[float, float]]


def envelope(
    curve: Sequence[tuple[float, float]], window: float, edge: Callable[[Iterable[float]], float]
) -> Points:
    """The least (`min`) or most (`max`) of each `window` seconds, at their beginnings; whole ones only."""
    found: dict[int, float] = {}
    for at, value in curve:
        number = int(at // window)
        found[number] = edge((found.get(number, value), value))
    whole = int(curve[-1][0] // window) if curve else 0
    return [(number * window, value) for number, value in found.items() if number < whole]


def trend(
    curve: Sequence[tuple[float, float]], *, warm_up: float, share: float, least: float
) -> Trend:
    """The trend of (seconds, value) points after `warm_up` seconds.

    It may gain `share` of its level, or `least` when that is more: what an allocator's pages and a
    moment's traffic do to a flat curve.
    """
    points = [point for point in curve if point[0] >= warm_up]
    if len(points) < 2:
        return Trend(0.0, float("inf"), least)
    thin = points[:: max(1, -(-len(points) // MOST_POINTS))]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(thin, 2) if b[0] > a[0]]
    level = median(value for _, value in points)
    growth = median(slopes) * (points[-1][0] - points[0][0])
    return Trend(level, growth, max(least, share * level))
