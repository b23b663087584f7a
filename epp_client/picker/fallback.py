"""The local pick: power of two choices by our own in-flight counts. Pure; the dice are an argument."""

from collections.abc import Callable, Sequence

from epp_client.picker.protocol import Subset
from epp_client.pool.snapshot import PoolSnapshot

RETRIES = 3
"""Length of the ordered list: the choice and what Envoy may try after it."""


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
    """Choose among the ready endpoints: the less loaded of two random ones, then others to retry.

    `below(n)` throws the dice: an integer in `0..n-1`. Endpoints that Envoy is known to have come
    first; those it may not have yet are used only when there are no others.
    """
    table = snapshot.table
    keys: Sequence[str]
    if subset is not None:
        keys = subset.ready
    else:
        keys = table.ready_keys
    if snapshot.acknowledged is not None and snapshot.acknowledged < table.generation:
        keys = [key for key in keys if snapshot.routable(key)] or keys
    if not keys:
        return ()
    size = len(keys)
    first = below(size)
    if size == 1:
        return (keys[0],)
    second = (first + 1 + below(size - 1)) % size
    if in_flight[keys[second]] < in_flight[keys[first]]:
        first, second = second, first
    chosen = [keys[first], keys[second]]
    at = second
    while len(chosen) < min(RETRIES, size):
        at = (at + 1) % size
        if keys[at] not in chosen:
            chosen.append(keys[at])
    return tuple(chosen)
