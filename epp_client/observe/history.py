"""History: fifteen minutes of a few numbers, for each pool and for all together. Pure.

Memory is bounded: a pool has `POINTS` points of 36 bytes, and a pool without requests has none.
"""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from epp_client.observe.interval import Interval, quantile
from epp_client.relay.outcome import Outcome

POINTS = 150
EVERY = 6.0
"""Seconds between two points."""
ALL = ""
"""Key of all pools together."""

_NONE = float("nan")


class Point(NamedTuple):
    """The numbers of one interval. Rates are per second, latencies in seconds; NaN where there was none."""

    steered: float
    failed_open: float
    refused: float
    other: float
    in_flight: float
    pick_p50: float
    pick_p99: float
    exchange_p50: float
    exchange_p99: float


IDLE = Point(0, 0, 0, 0, 0, _NONE, _NONE, _NONE, _NONE)


def point(interval: Interval, seconds: float, in_flight: int) -> Point:
    """The point of one interval."""
    steered = interval.outcome(Outcome.STEERED) + interval.outcome(Outcome.LOCAL_PICK)
    opened, refused = interval.outcome(Outcome.FAILED_OPEN), interval.outcome(Outcome.REFUSED)
    other = interval.requests - steered - opened - refused

    def at(counts: tuple[int, ...], share: float) -> float:
        found = quantile(counts, share)
        return _NONE if found is None else found

    return Point(
        steered / seconds,
        opened / seconds,
        refused / seconds,
        other / seconds,
        in_flight,
        at(interval.picks, 0.5),
        at(interval.picks, 0.99),
        at(interval.exchanges, 0.5),
        at(interval.exchanges, 0.99),
    )


class History:
    """The last `POINTS` points of everything that had requests or has some in flight."""

    def __init__(self) -> None:
        self.times: list[float] = []
        """Unix time of each point, oldest first."""
        self._series: dict[str, list[array[float]]] = {}

    def add(self, at: float, points: Mapping[str, Point]) -> None:
        """Add a point for every key; those without one were idle. A key that was idle all the time is
        forgotten."""
        self.times.append(at)
        full = len(self.times) > POINTS
        if full:
            self.times.pop(0)
        for key in points.keys() - self._series.keys():
            if points[key][:5] != IDLE[:5]:
                self._series[key] = [
                    array("f", [idle] * (len(self.times) - 1 + full)) for idle in IDLE
                ]
        for key, columns in list(self._series.items()):
            for column, value in zip(columns, points.get(key, IDLE), strict=True):
                column.append(value)
                if full:
                    column.pop(0)
            if not any(any(column) for column in columns[:5]):
                del self._series[key]

    def forget(self, keys: Iterable[str]) -> None:
        """These pools do not exist any more."""
        for key in keys:
            self._series.pop(key, None)

    def as_json(self, key: str, *, last: int = POINTS) -> dict[str, Any]:
        """The newest `last` points of a key, by name: lists of equal length, `null` where there was no
        request. A key without a series was idle."""
        columns = self._series.get(key)
        times = self.times[-last:]
        series: dict[str, Any] = {"at": [round(at, 1) for at in times]}
        for name, idle, column in zip(Point._fields, IDLE, columns or IDLE, strict=True):
            values = [idle] * len(times) if columns is None else list(column)[-last:]  # type: ignore[call-overload]
            series[name] = [None if value != value else round(value, 6) for value in values]
        return series
