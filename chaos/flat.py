"""Decides whether a curve is flat, by the median of the slopes between its points, which ignores outliers.
Pure."""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

MAX_POINTS = 240
"""Points that a curve is thinned to, as all pairs are compared."""


class Trend(NamedTuple):
    """The trend of a curve after the warm-up."""

    level: float
    """Median value."""
    growth: float
    """Growth from the end of the warm-up to the end, by the median slope."""
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it grows by no more than is allowed."""
        return self.growth <= self.allowed

    @property
    def says(self) -> str:
        """The verdict as text."""
        verdict = "flat" if self.flat else "NOT FLAT"
        return f"{verdict}: {self.growth:+.2f} at a level of {self.level:.1f}"


Points = list[tuple[float, float]]


def envelope(
    curve: Sequence[tuple[float, float]], window: float, edge: Callable[[Iterable[float]], float]
) -> Points:
    """The minimum or maximum of each complete `window` of seconds, at its beginning."""
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

    It may grow by `share` of its level, but at least by `least`, as pages of an allocator and the traffic
    of a moment vary.
    """
    points = [point for point in curve if point[0] >= warm_up]
    if len(points) < 2:
        return Trend(0.0, float("inf"), least)
    thin = points[:: max(1, -(-len(points) // MAX_POINTS))]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(thin, 2) if b[0] > a[0]]
    level = median(value for _, value in points)
    growth = median(slopes) * (points[-1][0] - points[0][0])
    return Trend(level, growth, max(least, share * level))
