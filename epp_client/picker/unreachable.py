"""The endpoints that lately took no connection: a local pick tries them last. Pure.

That one took none is seen from the list that Envoy was given: it walks it from the beginning, and tells
which entry has served.
"""

import math
from collections.abc import Collection, Sequence
from typing import Final

MEMORY: Final = 10.0
"""Seconds for which an endpoint is tried last, and up to twice as many of those that were refused together:
they have another chance one by one, so that no request meets all of them."""


class Unreachable:
    """By key of the endpoint, in one process. All times are seconds of one clock."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        # when the first of them has another chance
        self._next = math.inf

    def refused(self, keys: Sequence[str], now: float) -> None:
        """These took no connection."""
        for number, key in enumerate(keys):
            self._until[key] = now + MEMORY * (1 + number / len(keys))
        self._forget(now)

    def served(self, key: str) -> None:
        """This one did."""
        if self._until:
            self._until.pop(key, None)

    def now(self, now: float) -> Collection[str]:
        """The keys of all of them."""
        if now >= self._next:
            self._forget(now)
        return self._until.keys()

    def _forget(self, now: float) -> None:
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._next = min(self._until.values(), default=math.inf)
