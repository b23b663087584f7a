"""The local pick: power of two choices by our own in-flight counts. Pure; the dice are an argument."""

from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

from epp_client.picker.preparation import Subset
from epp_client.pool.snapshot import PoolSnapshot

_Item = TypeVar("_Item")

LONGEST_LIST: Final = 16
"""Length of the ordered list at most: the choice and what Envoy may try after it."""
LONGEST_SEARCH: Final = 128
"""The same while endpoints of the pool take no connections. A longer list, a header as well, would be
too much for some model servers."""


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
    unreachable: Collection[str],
    below: Callable[[int], int],
) -> tuple[str, ...]:
    """Choose among the ready endpoints that can answer alone: the less loaded of two, then others to retry.

    `below(n)` throws the dice: an integer in `0..n-1`. Endpoints that Envoy is known to have come
    first; those it may not have yet are used only when there are no others. `unreachable` lately took no
    connections: they come last, and each makes the list longer, as more may have gone with it.
    """
    table = snapshot.table
    behind = snapshot.acknowledged is not None and snapshot.acknowledged < table.generation
    if subset is None:
        drawn = [e.key for e in _draw(table.local, below, LONGEST_LIST)]
        # Most are known to Envoy, and can be reached: a pool of thousands is seldom looked through.
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
    most = min(LONGEST_LIST + len(last), LONGEST_SEARCH)
    chosen = _choose(_draw(first, below, most), in_flight)
    return chosen + tuple(_draw(last, below, most - len(chosen)))


def _draw(items: Sequence[_Item], below: Callable[[int], int], most: int) -> list[_Item]:
    """Two random items, then the ones behind the second: `most` in all, without a repetition."""
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
