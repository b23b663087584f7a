"""The endpoints that lately took no connection: a local pick tries them last. Pure.

That one took none is seen from the list that Envoy was given: it walks it from the beginning, and tells
which entry has served.
"""

from collections.abc import Collection, Iterable
from typing import Final

MEMORY: Final = 10.0
"""Seconds for which an endpoint is tried last; then it has another chance."""


class Unreachable:
    """By key of the endpoint, in one process. All times are seconds of one clock."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # in the order of time

    def refused(self, keys: Iterable[str], now: float) -> None:
        """These took no connection."""
        self._forget(now)
        for key in keys:
            self._until.pop(key, None)
            self._until[key] = now + MEMORY

    def served(self, key: str) -> None:
        """This one did."""
        if self._until:
            self._until.pop(key, None)

    def now(self, now: float) -> Collection[str]:
        """The keys of all of them."""
        if self._until:
            self._forget(now)
        return self._until.keys()

    def _forget(self, now: float) -> None:
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now:
                return
            del self._until[oldest]
