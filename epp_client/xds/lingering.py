"""Endpoints that have left their pool and stay in Envoy for a moment. Pure; times are arguments.

If Envoy removed an endpoint before the relays, a request steered to it a moment before would get a 503. So
relays stop to pick it first, and Envoy removes it later. Callers of `expire` make sure that relays have
stopped, as on a busy machine no fixed time is long enough for that.
"""

from collections.abc import Iterable

from epp_client.pool.endpoints import Endpoint, EndpointTable

LINGER = 1.0
"""Minimum in seconds. A steered request reaches Envoy within milliseconds."""
HANDOVER = 60.0
"""Seconds for endpoints that only workers of an earlier control process know. They serve until our workers
do, and then finish their open requests."""


class Lingering:
    """Lingering endpoints by resource and key, each with its end."""

    def __init__(self) -> None:
        self._left: dict[str, dict[str, tuple[Endpoint, float]]] = {}

    def changed(
        self,
        name: str,
        before: EndpointTable,
        after: EndpointTable,
        now: float,
        linger: float = LINGER,
    ) -> None:
        """A table was replaced: removed endpoints linger, returned ones stop lingering."""
        left = {k: kept for k, kept in self._left.get(name, {}).items() if k not in after.by_key}
        for key, endpoint in before.by_key.items():
            if key not in after.by_key and key not in left:
                left[key] = endpoint, now + linger
        if left:
            self._left[name] = left
        else:
            self._left.pop(name, None)

    def of(self, name: str) -> Iterable[Endpoint]:
        """The lingering endpoints of a resource."""
        return [endpoint for endpoint, _ in self._left.get(name, {}).values()]

    def expire(self, now: float) -> set[str]:
        """Remove endpoints whose time has ended; returns the names of their resources."""
        touched: set[str] = set()
        for name, left in list(self._left.items()):
            kept = {key: entry for key, entry in left.items() if entry[1] > now}
            if len(kept) < len(left):
                touched.add(name)
                if kept:
                    self._left[name] = kept
                else:
                    del self._left[name]
        return touched

    def next_change(self) -> float | None:
        """When the first endpoint's time ends."""
        times = (until for left in self._left.values() for _, until in left.values())
        return min(times, default=None)

    def forget(self, name: str) -> None:
        """The pool was deleted."""
        self._left.pop(name, None)
