"""The local pick: power of two choices by our own in-flight counts. Pure; the dice are an argument."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from epp_client.picker.preparation import Subset
from epp_client.pool.snapshot import PoolSnapshot

_Item = TypeVar("_Item")

LONGEST_LIST = 16
"""Length of the ordered list at most: the choice and what Envoy may try after it."""


class InFlight:
    """Requests now with each endpoint, as far as this process sent them."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __getitem__(self, key: str) -> int:
        return self._counts.get(key, 0)

    def begin(self, key: str) -> None:
        """A request goes to `key`."""
        self._counts[key] = self._counts.get(key, 0) + 1

    def end(self, key: str) -> None:
        """A request to `key` is over. Keys without requests are forgotten."""
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
        else:
            del self._counts[key]


def local_pick(
    snapshot: PoolSnapshot,
    subset: Subset | None,
    in_flight: InFlight,
    below: Callable[[int], int],
) -> tuple[str, ...]:
    """Choose among the ready endpoints that can answer alone: the less loaded of two, then others to retry.

    `below(n)` throws the dice: an integer in `0..n-1`. Endpoints that Envoy is known to have come
    first; those it may not have yet are used only when there are no others.
    """
    table = snapshot.table
    behind = snapshot.acknowledged is not None and snapshot.acknowledged < table.generation
    if subset is None:
        drawn = [e.key for e in _draw(table.local, below)]
        # Most are known to Envoy: a pool of thousands is seldom looked through.
        if not behind or all(map(snapshot.routable, drawn)):
            return _choose(drawn, in_flight)
        keys = [endpoint.key for endpoint in table.local]
    else:
        found = table.by_key.get
        keys = [key for key in subset.ready if (e := found(key)) is None or e.local]
    if behind:
        keys = [key for key in keys if snapshot.routable(key)] or keys
    return _choose(_draw(keys, below), in_flight)


def _draw(items: Sequence[_Item], below: Callable[[int], int]) -> list[_Item]:
    """Two random items, then the ones behind the second: `LONGEST_LIST` in all, without a repetition."""
    size = len(items)
    if size < 2:
        return list(items)
    first = below(size)
    second = (first + 1 + below(size - 1)) % size
    drawn = [first, second]
    at = second
    while len(drawn) < min(LONGEST_LIST, size):
        at = (at + 1) % size
        if at != first:
            drawn.append(at)
    return [items[index] for index in drawn]


def _choose(keys: list[str], in_flight: InFlight) -> tuple[str, ...]:
    if len(keys) > 1 and in_flight[keys[1]] < in_flight[keys[0]]:
        keys[0], keys[1] = keys[1], keys[0]
    return tuple(keys)
