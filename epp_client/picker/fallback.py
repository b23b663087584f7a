"""The local pick: power of two choices by this process's in-flight counts. Pure; randomness is an
argument."""

from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

from epp_client.picker.preparation import Subset
from epp_client.pool.snapshot import PoolSnapshot

_Item = TypeVar("_Item")

MAX_ENDPOINTS: Final = 16
"""Endpoints of a local pick: the choice, and those that Envoy tries after it."""
MAX_WITH_UNREACHABLE: Final = 128
"""The same while endpoints of the pool are unreachable. The list is also a header, and some model servers
do not accept longer ones."""


class InFlight:
    """Requests in flight by endpoint, as far as this process sent them."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __getitem__(self, key: str) -> int:
        return self._counts.get(key, 0)

    def begin(self, key: str) -> None:
        """Count a request to `key`."""
        self._counts[key] = self._counts.get(key, 0) + 1

    def end(self, key: str) -> None:
        """A request to `key` has ended. Keys without requests are removed."""
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
        else:
            del self._counts[key]


def local_pick(
    snapshot: PoolSnapshot,
    subset: Subset | None,
    in_flight: InFlight,
    unreachable: Collection[str],
    below: Callable[[int], int],
) -> tuple[str, ...]:
    """Choose the less loaded of two random ready endpoints that can answer alone, then others for retries.
    `below(n)` returns a random integer in `0..n-1`. Endpoints that Envoy may not have yet are used only if
    there are no others. `unreachable` endpoints come last, and each makes the list one longer, as others
    may have failed with it.
    """
    table = snapshot.table
    behind = snapshot.acknowledged is not None and snapshot.acknowledged < table.generation
    if subset is None:
        drawn = [e.key for e in _draw(table.local, below, MAX_ENDPOINTS)]
        # Usually Envoy has all drawn endpoints and none is unreachable, so the pool is not searched.
        known = not behind or all(map(snapshot.routable, drawn))
        if known and not (unreachable and any(key in unreachable for key in drawn)):
            return _choose(drawn, in_flight)
        keys = [endpoint.key for endpoint in table.local]
    else:
        found = table.by_key.get
        keys = [key for key in subset.ready if (e := found(key)) is None or e.local]
    if behind:
        keys = [key for key in keys if snapshot.routable(key)] or keys
    last = [key for key in keys if key in unreachable]
    first = [key for key in keys if key not in unreachable] if last else keys
    most = min(MAX_ENDPOINTS + len(last), MAX_WITH_UNREACHABLE)
    chosen = _choose(_draw(first, below, most), in_flight)
    return chosen + tuple(_draw(last, below, most - len(chosen)))


def _draw(items: Sequence[_Item], below: Callable[[int], int], most: int) -> list[_Item]:
    """Two random items, then those after the second: up to `most` different items."""
    size = len(items)
    if size < 2 or most < 2:
        return list(items[:most])
    first = below(size)
    second = (first + 1 + below(size - 1)) % size
    drawn = [first, second]
    at = second
    while len(drawn) < min(most, size):
        at = (at + 1) % size
        if at != first:
            drawn.append(at)
    return [items[index] for index in drawn]


def _choose(keys: list[str], in_flight: InFlight) -> tuple[str, ...]:
    if len(keys) > 1 and in_flight[keys[1]] < in_flight[keys[0]]:
        keys[0], keys[1] = keys[1], keys[0]
    return tuple(keys)
