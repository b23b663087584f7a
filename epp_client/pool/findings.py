"""What a check of files has found. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from epp_client.pool.inference_pool import PoolName
from epp_client.pool.problems import Problem
from epp_client.pool.snapshot import PoolSnapshot


@dataclass(frozen=True, slots=True)
class Findings:
    """Problems, and the pools as they would be served."""

    problems: tuple[Problem, ...]
    """Errors and warnings with their places."""
    snapshots: Mapping[PoolName, PoolSnapshot]
    """The pools as they would be served."""
    others: Mapping[str, int] = field(default_factory=dict)
    """Numbers of other things that would be served, by their names: `{"Gateway": 1, "route": 5}`."""

    @classmethod
    def of(cls, parts: Sequence["Findings"]) -> "Findings":
        """Merge several findings into one."""
        return cls(
            tuple(problem for part in parts for problem in part.problems),
            {name: snapshot for part in parts for name, snapshot in part.snapshots.items()},
            {name: count for part in parts for name, count in part.others.items()},
        )

    def __str__(self) -> str:
        """`1 pool, 2 endpoints, picker 10.0.0.5:9002`."""
        found = [*self.snapshots.values()]
        endpoints = sum(len(snapshot.table.ready) for snapshot in found)
        parts = [_count(len(found), "pool"), _count(endpoints, "endpoint")]
        pickers = dict.fromkeys(one for s in found if s.picker for one in s.picker.addresses)
        shown = [*pickers][:_SHOWN] + ["…"] * (len(pickers) > _SHOWN)
        unresolved = sum(s.picker is not None and not s.picker.addresses for s in found)
        if shown:
            parts.append(f"picker{'s' * (len(pickers) > 1)} {' '.join(shown)}")
        if unresolved:
            parts.append(f"{_count(unresolved, 'picker')} without an address")
        if without := sum(s.picker is None for s in found):
            parts.append(f"{without} without a picker")
        parts += [_count(count, name) for name, count in self.others.items()]
        return ", ".join(parts)


_SHOWN = 4


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
