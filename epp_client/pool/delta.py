"""The difference between two snapshots of a pool, to send to relay workers instead of the snapshot. Pure.

To pickle and rebuild 10 000 endpoints takes milliseconds; one more Pod takes microseconds.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType

from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot


@dataclass(frozen=True, slots=True)
class SnapshotDelta:
    """Turns a snapshot into the next one. `put` and `gone` are members of the table."""

    pool: InferencePool
    picker: PickerTarget | None
    synced: bool
    acknowledged: int | None
    generation: int
    put: tuple[Endpoint, ...]
    """New and changed members."""
    gone: tuple[str, ...]
    """Keys of removed members."""


def difference(before: PoolSnapshot | None, after: PoolSnapshot) -> SnapshotDelta:
    """The delta from `before` to `after`; None stands for an unknown pool."""
    old = before.table if before is not None else EndpointTable()
    new = after.table
    put: tuple[Endpoint, ...] = ()
    gone: tuple[str, ...] = ()
    if new is not old:
        known = old.by_key.get
        put = tuple(
            endpoint
            for key, endpoint in new.by_key.items()
            if (was := known(key)) is not endpoint and was != endpoint
        )
        gone = tuple(key for key in old.by_key if key not in new.by_key)
    return SnapshotDelta(
        after.pool, after.picker, after.synced, after.acknowledged, new.generation, put, gone
    )


def apply(before: PoolSnapshot | None, delta: SnapshotDelta) -> PoolSnapshot:
    """Apply `delta`. Members that stay keep their order; new ones come last."""
    table = before.table if before is not None else EndpointTable()
    if delta.put or delta.gone:
        # copy() takes a tenth of the time of dict() on a MappingProxyType.
        by_key = table.by_key.copy()
        for key in delta.gone:
            del by_key[key]
        for endpoint in delta.put:
            by_key[endpoint.key] = endpoint
        table = EndpointTable(MappingProxyType(by_key), delta.generation)
    elif table.generation != delta.generation:
        table = replace(table, generation=delta.generation)
    return PoolSnapshot(delta.pool, table, delta.picker, delta.acknowledged, delta.synced)
