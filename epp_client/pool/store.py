"""PoolStore: the current snapshots of all pools, and the subscribers to their changes.

Synchronous and single-threaded; no asyncio. A store that is not `synced` has not been filled yet, which is
not the same as having no pools.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from epp_client.pool.inference_pool import PoolName
from epp_client.pool.problems import Problem
from epp_client.pool.snapshot import PoolSnapshot

Changed = Callable[[set[PoolName]], None]


class PoolStore:
    """Holds one snapshot per pool, by `namespace/name`."""

    def __init__(self) -> None:
        self.snapshots: dict[str, PoolSnapshot] = {}
        self.problems: tuple[Problem, ...] = ()
        self.synced = False
        self.changes = 0
        """Number of changes of snapshots or problems so far."""
        self._subscribers: list[Changed] = []

    def publish(
        self, snapshots: Mapping[PoolName, PoolSnapshot], problems: tuple[Problem, ...] = ()
    ) -> None:
        """Replace all snapshots and problems. Acknowledged generations are kept."""
        old = self.snapshots
        new: dict[str, PoolSnapshot] = {}
        changed = {s.pool.name for key, s in old.items() if s.pool.name not in snapshots}
        for name, snapshot in snapshots.items():
            before = old.get(str(name))
            if before is not None:
                if _same(before, snapshot):
                    new[str(name)] = before
                    continue
                snapshot = replace(snapshot, acknowledged=before.acknowledged)
            changed.add(name)
            new[str(name)] = snapshot
        news = not self.synced or problems != self.problems
        self.snapshots, self.problems, self.synced = new, problems, True
        if changed or news:
            self._tell(changed)

    def adopt(self, changed: Collection[PoolSnapshot], gone: Collection[str]) -> None:
        """Apply changes of another process's store, acknowledged generations included."""
        snapshots = {**self.snapshots, **{str(s.pool.name): s for s in changed}}
        for name in gone:
            snapshots.pop(name, None)
        names = {snapshot.pool.name for snapshot in changed}
        names |= {self.snapshots[name].pool.name for name in gone if name in self.snapshots}
        self.snapshots, self.synced = snapshots, True
        self._tell(names)

    def acknowledge(self, pool: PoolName, generation: int | None) -> None:
        """Note that every connected Envoy has this generation of the pool's table; None: no Envoy is
        connected."""
        snapshot = self.snapshots.get(str(pool))
        if snapshot is None or snapshot.acknowledged == generation:
            return
        self.snapshots = {
            **self.snapshots,
            str(pool): replace(snapshot, acknowledged=generation),
        }
        self._tell({pool})

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        """Call `callback` with the names of changed pools after each change; returns a function that
        unsubscribes."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def _tell(self, changed: set[PoolName]) -> None:
        self.changes += 1
        for callback in list(self._subscribers):
            callback(changed)


def _same(before: PoolSnapshot, after: PoolSnapshot) -> bool:
    """Whether they are equal except for the acknowledgement. Large tables are compared by identity
    first."""
    old, new = before.table, after.table
    tables = old is new or (old.generation == new.generation and old == new)
    return tables and (before.pool, before.picker, before.synced) == (
        after.pool,
        after.picker,
        after.synced,
    )
