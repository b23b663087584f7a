"""Decides when an Envoy may be sent a pool's endpoints again. Pure; times are arguments.

Envoy processes a pool as a whole: 10 000 endpoints cost its main thread 45 ms, on cores that requests need
as well. After each push a pool has a cool-down, which is longer after a costly push, and while no pick
waits for a new endpoint. Removed endpoints are never urgent.
"""

from collections import deque
from collections.abc import Collection, Mapping

COOLDOWN_FACTOR = 2_000.0
"""Seconds of cool-down per second squared of a push: 0.05 s after 5 ms, 0.2 s after 10 ms, 4 s after 45 ms.
Squared, as one long push delays more requests, and each of them more, than short pushes of the same total
time."""
MAX_COOLDOWN = 5.0
"""Seconds of the longest cool-down."""
MAX_WANTED_COOLDOWN = 0.1
"""The same while a pick waits for an endpoint. By default a pick waits for up to 0.25 s."""
JUDGED_BY = 3
"""Number of last pushes. The quickest of them counts, because a busy machine can delay one of them."""


class Cooldowns:
    """Cool-downs for one Envoy, by names of EDS resources."""

    def __init__(self) -> None:
        # Time of the last push, and the resource's share of it.
        self._pushed: dict[str, tuple[float, float]] = {}
        # Seconds that Envoy took for the last pushes.
        self._took: dict[str, deque[float]] = {}
        # End of the cool-down without and with a waiting pick.
        self._ends: dict[str, tuple[float, float]] = {}
        self._wanted: set[str] = set()

    def pushed(self, sizes: Mapping[str, int], now: float) -> None:
        """These resources, with their sizes in bytes, were sent in one response."""
        whole = sum(sizes.values()) or 1
        self._pushed = {name: (now, size / whole) for name, size in sizes.items()}
        self._wanted -= sizes.keys()

    def acknowledged(self, names: Collection[str], now: float) -> None:
        """Envoy has acknowledged these resources."""
        for name in names:
            if (push := self._pushed.pop(name, None)) is not None:
                took = self._took.setdefault(name, deque(maxlen=JUDGED_BY))
                took.append((now - push[0]) * push[1])
                cooldown = COOLDOWN_FACTOR * min(took) ** 2
                self._ends[name] = (
                    now + min(MAX_COOLDOWN, cooldown),
                    now + min(MAX_WANTED_COOLDOWN, cooldown),
                )

    def want(self, name: str) -> None:
        """A pick waits for an endpoint of this pool."""
        self._wanted.add(name)

    def forget(self, name: str) -> None:
        """The pool was deleted."""
        self._pushed.pop(name, None)
        self._took.pop(name, None)
        self._ends.pop(name, None)
        self._wanted.discard(name)

    def ends(self, name: str) -> float:
        """When the cool-down of this pool ends."""
        unwanted, wanted = self._ends.get(name, (0.0, 0.0))
        return wanted if name in self._wanted else unwanted

    def cooling(self, now: float) -> set[str]:
        """The pools whose cool-down has not ended."""
        return {name for name in self._ends if self.ends(name) > now}
