"""The traffic of each endpoint, since it is a member, and in the last minute. Pure."""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from epp_client.metrics.decisions import Traffic
from epp_client.pool.snapshot import PoolSnapshot

SPAN = 10
"""Parts of the minute."""

Part = dict[str, dict[str, Traffic]]


class PoolTraffic(NamedTuple):
    """What the endpoints of one pool did, by their keys. Endpoints without requests are missing."""

    total: Mapping[str, Traffic]
    """Since each is a member, or this process has started."""
    minute: Mapping[str, Traffic]
    first_seen: Mapping[str, float]
    """Unix time in seconds since which each is a member."""


class Endpoints:
    """The traffic of all endpoints of all pools. Endpoints that are no members any more are forgotten."""

    def __init__(self) -> None:
        self._totals: dict[str, dict[str, Traffic]] = {}
        self._seen: dict[str, dict[str, float]] = {}
        self._tables: dict[str, object] = {}
        self._parts: deque[Part] = deque([{}], maxlen=SPAN)

    def add(self, traffic: Mapping[str, Mapping[str, Traffic]]) -> None:
        """Add the requests of a moment."""
        for pool, endpoints in traffic.items():
            totals = self._totals.setdefault(pool, {})
            part = self._parts[-1].setdefault(pool, {})
            for key, one in endpoints.items():
                totals.setdefault(key, Traffic()).add(one)
                part.setdefault(key, Traffic()).add(one)

    def next_part(self) -> None:
        """A tenth of the minute is over."""
        self._parts.append({})

    def follow(self, at: float, snapshots: Mapping[str, PoolSnapshot]) -> None:
        """Remember since when each endpoint is a member."""
        for name in self._tables.keys() - snapshots.keys():
            for kept in (self._totals, self._seen, self._tables):
                kept.pop(name, None)
        for name in self._totals.keys() - snapshots.keys():
            del self._totals[name]
        for name, snapshot in snapshots.items():
            table = snapshot.table
            if self._tables.get(name) is table:
                continue
            self._tables[name] = table
            before = self._seen.get(name, {})
            self._seen[name] = {key: before.get(key, at) for key in table.by_key}
            totals = self._totals.get(name, {})
            self._totals[name] = {k: one for k, one in totals.items() if k in table.by_key}

    def of(self, pool: str) -> "PoolTraffic":
        """What the endpoints of one pool did. It must be read before anything is added."""
        minute: dict[str, Traffic] = {}
        for part in self._parts:
            for key, one in part.get(pool, {}).items():
                minute.setdefault(key, Traffic()).add(one)
        return PoolTraffic(self._totals.get(pool, {}), minute, self._seen.get(pool, {}))
