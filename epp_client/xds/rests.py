"""When an Envoy may be told a pool's endpoints again. Pure: times are arguments.

Envoy takes a pool in whole: 10 000 endpoints cost its main thread 45 ms, on cores that requests want as
well. A pool rests after each push, the longer the more the push cost, and longest while nobody needs
what is new: an endpoint is not needed before a pick names it, and one that goes is never urgent.
"""

from collections import deque
from collections.abc import Collection, Mapping

REST = 2_000.0
"""Seconds of rest per second squared of a push: 0.05 for one of 5 ms, 0.2 for 10 ms, 4 for 45 ms.
One long push disturbs more requests, and each of them more, than the same time in many short ones."""
LONGEST_REST = 5.0
LONGEST_WANTED_REST = 0.1
"""While a pick waits for an endpoint: well below the 0.25 s that it waits."""
JUDGED_BY = 3
"""Pushes of which the quickest counts: one that took longer has met a busy machine, unless they all do."""


class Rests:
    """Of the pools of one Envoy, by the names of their EDS resources."""

    def __init__(self) -> None:
        # when, and its share of the push
        self._pushed: dict[str, tuple[float, float]] = {}
        # seconds that Envoy took over the last pushes
        self._took: dict[str, deque[float]] = {}
        # when nobody waits, and when somebody does
        self._over: dict[str, tuple[float, float]] = {}
        self._wanted: set[str] = set()

    def pushed(self, sizes: Mapping[str, int], now: float) -> None:
        """These resources, of so many bytes, are on their way in one response."""
        whole = sum(sizes.values()) or 1
        self._pushed = {name: (now, size / whole) for name, size in sizes.items()}
        self._wanted -= sizes.keys()

    def acknowledged(self, names: Collection[str], now: float) -> None:
        """Envoy has taken these in."""
        for name in names:
            if (push := self._pushed.pop(name, None)) is not None:
                took = self._took.setdefault(name, deque(maxlen=JUDGED_BY))
                took.append((now - push[0]) * push[1])
                rest = REST * min(took) ** 2
                self._over[name] = (
                    now + min(LONGEST_REST, rest),
                    now + min(LONGEST_WANTED_REST, rest),
                )

    def want(self, name: str) -> None:
        """A pick waits for an endpoint of this pool's, until the next push."""
        self._wanted.add(name)

    def forget(self, name: str) -> None:
        """The pool is no more."""
        self._pushed.pop(name, None)
        self._took.pop(name, None)
        self._over.pop(name, None)
        self._wanted.discard(name)

    def over(self, name: str) -> float:
        """When this pool may be pushed again."""
        unwanted, wanted = self._over.get(name, (0.0, 0.0))
        return wanted if name in self._wanted else unwanted

    def resting(self, now: float) -> set[str]:
        """The pools that may not be pushed yet."""
        return {name for name in self._over if self.over(name) > now}
