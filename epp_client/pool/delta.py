"""What changed between two snapshots of a pool, so that a relay worker need not be told it all. Pure.

A pool of 10 000 endpoints takes milliseconds to pickle and rebuild; one Pod more takes microseconds.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType

from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot


@dataclass(frozen=True, slots=True)
class SnapshotDelta:
    """Makes a snapshot of the one before it; `put` and `gone` speak of the table's members."""

    pool: InferencePool
    picker: PickerTarget | None
    synced: bool
    acknowledged: int | None
    generation: int
    put: tuple[Endpoint, ...]
    """New members, and members that are not what they were."""
    gone: tuple[str, ...]
    """Keys of members that are no more."""


def difference(before: PoolSnapshot | None, after: PoolSnapshot) -> SnapshotDelta:
    """What `apply` needs to make `after` of `before`; None knows nothing of the pool."""
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
    """The snapshot after `delta`. Members that stay keep their order; new ones come last."""
    table = before.table if before is not None else EndpointTable()
    if delta.put or delta.gone:
        # a tenth of what dict() takes over a proxy
        by_key = table.by_key.copy()
        for key in delta.gone:
            del by_key[key]
        for endpoint in delta.put:
            by_key[endpoint.key] = endpoint
        table = EndpointTable(MappingProxyType(by_key), delta.generation)
    elif table.generation != delta.generation:
        table = replace(table, generation=delta.generation)
    return PoolSnapshot(delta.pool, table, delta.picker, delta.acknowledged, delta.synced)
