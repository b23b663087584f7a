"""Endpoints that have left their pool, and that Envoy keeps a moment longer. Pure; clocks are arguments.

Relays judge picks, and hear of a departure at about the time when Envoy would. Were Envoy faster, a request
that was steered a moment ago would find its host gone: the strict fallback answers 503 then. So relays stop
first and Envoy follows; nobody picks in between. Whoever calls `expire` has made sure that they have
stopped: no time is long enough for that on a busy machine.
"""

from collections.abc import Iterable

from epp_client.pool.endpoints import Endpoint, EndpointTable

LINGER = 1.0
"""Seconds at least; a request that was steered before its relay knew is with Envoy in milliseconds."""
HANDOVER = 60.0
"""Seconds for those that only relays of another control process know, which nobody tells. They serve until
ours do, and then bring to an end what waits for a pick."""


class Lingering:
    """Departed endpoints by resource and key, each until its time is up."""

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
        """A table has followed another: who left lingers, who is back does not."""
        left = {k: kept for k, kept in self._left.get(name, {}).items() if k not in after.by_key}
        for key, endpoint in before.by_key.items():
            if key not in after.by_key and key not in left:
                left[key] = endpoint, now + linger
        if left:
            self._left[name] = left
        else:
            self._left.pop(name, None)

    def of(self, name: str) -> Iterable[Endpoint]:
        """Who lingers."""
        return [endpoint for endpoint, _ in self._left.get(name, {}).values()]

    def expire(self, now: float) -> set[str]:
        """Let go of those whose time is up; the resources that they were in."""
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
        """When the first one goes."""
        times = (until for left in self._left.values() for _, until in left.values())
        return min(times, default=None)

    def forget(self, name: str) -> None:
        """The pool is no more."""
        self._left.pop(name, None)
