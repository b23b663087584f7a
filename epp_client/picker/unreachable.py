"""Remembers endpoints that Envoy could not connect to lately, which a local pick tries last. Pure.

Envoy tries its list of endpoints in order and reports the one that served, so all before it were
unreachable.
"""

import math
from collections.abc import Collection, Sequence
from typing import Final

MEMORY: Final = 10.0
"""Seconds for which an endpoint is tried last. For endpoints that failed together it is up to twice as
long, so that they are tried again one by one."""


class Unreachable:
    """Unreachable endpoints by key, in one process. All times are seconds of one clock."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        # When the first entry expires.
        self._next = math.inf

    def refused(self, keys: Sequence[str], now: float) -> None:
        """Envoy could not connect to these."""
        for number, key in enumerate(keys):
            self._until[key] = now + MEMORY * (1 + number / len(keys))
        self._forget(now)

    def served(self, key: str) -> None:
        """This endpoint served a request."""
        if self._until:
            self._until.pop(key, None)

    def now(self, now: float) -> Collection[str]:
        """The keys of all unreachable endpoints."""
        if now >= self._next:
            self._forget(now)
        return self._until.keys()

    def _forget(self, now: float) -> None:
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._next = min(self._until.values(), default=math.inf)
