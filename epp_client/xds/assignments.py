"""The EDS resources of all pools, from their newest snapshots and the lingering endpoints. Pure."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from epp_client.envoy.endpoints import Assignment
from epp_client.pool.endpoints import EndpointTable
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.xds.lingering import HANDOVER, Lingering
from epp_client.xds.state import Resource


class Assignments(Mapping[str, Resource]):
    """EDS resources by name of the cluster. They are encoded when they are read, not at every change."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._snapshots: dict[str, PoolSnapshot] = {}
        self._inherited: dict[str, EndpointTable] = {}
        # The table of the last encoded resource.
        self._shown: dict[str, EndpointTable] = {}
        self._built: dict[str, Resource] = {}
        self._writers: dict[str, Assignment] = {}
        self._lingering = Lingering()

    def inherit(self, tables: Mapping[str, EndpointTable]) -> None:
        """Add tables of endpoints that earlier workers may still pick. Call it before any resource is
        read."""
        self._inherited = dict(tables)

    def put(self, name: str, snapshot: PoolSnapshot) -> bool:
        """Set a pool's newest snapshot. True if the resource has changed."""
        before = self._snapshots.get(name)
        self._snapshots[name] = snapshot
        return before is None or before.table.generation != snapshot.table.generation

    def expire(self, now: float) -> set[str]:
        """Remove endpoints that have lingered enough; returns the names of changed resources."""
        names = self._lingering.expire(now)
        for name in names:
            self._built.pop(name, None)
        return names

    def next_change(self) -> float | None:
        """When `expire` will remove an endpoint."""
        return self._lingering.next_change()

    def drop(self, name: str) -> None:
        """The pool was deleted."""
        self._snapshots.pop(name, None)
        self._inherited.pop(name, None)
        self._shown.pop(name, None)
        self._built.pop(name, None)
        self._writers.pop(name, None)
        self._lingering.forget(name)

    def __getitem__(self, name: str) -> Resource:
        snapshot, built = self._snapshots[name], self._built.get(name)
        table = snapshot.table
        if built is None or built.generation != table.generation:
            if (inherited := self._inherited.pop(name, None)) is not None:
                self._lingering.changed(name, inherited, table, self._clock(), HANDOVER)
            if (shown := self._shown.get(name, table)) is not table:
                self._lingering.changed(name, shown, table, self._clock())
            self._shown[name] = table
            writer = self._writers.setdefault(name, Assignment(name))
            value = writer.write(chain(table.by_key.values(), self._lingering.of(name)))
            self._built[name] = built = Resource(value, table.generation)
        return built

    def __contains__(self, name: object) -> bool:
        return name in self._snapshots

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshots)

    def __len__(self) -> int:
        return len(self._snapshots)
