"""Recent events: what changed between two looks at the sidecar. Pure.

Level-based: an event is the difference of two looks, so nothing has to be told to anybody.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from epp_client.metrics.counters import Counters
from epp_client.observe.looks import Look
from epp_client.picker.health import USABLE, Health
from epp_client.pool.snapshot import PoolSnapshot

KEPT = 200
NAMED = 3
"""Names in the text of one event."""
MAX_AT_ONCE = 50
"""Events of one look; the rest is one event with their number."""


class Event(NamedTuple):
    """Something that happened, in a sentence."""

    number: int
    """Grows by one from event to event."""
    at: float
    """Unix time in seconds."""
    kind: str
    """`pool`, `endpoints`, `picker`, `envoy`, `workers` or `sidecar`."""
    subject: str
    """`namespace/name` of a pool, or empty."""
    text: str


class Events:
    """The last `KEPT` events."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._number = 0

    def add(self, at: float, kind: str, subject: str, text: str) -> None:
        """Add an event."""
        self._number += 1
        self._events.append(Event(self._number, at, kind, subject, text))

    def since(self, number: int = 0) -> list[Event]:
        """The events after `number`, oldest first."""
        return [event for event in self._events if event.number > number]

    def looked(self, before: Look | None, now: Look) -> None:
        """Add what has changed between two looks."""
        if before is None:
            self.add(now.at, "sidecar", "", "the sidecar has started")
            return
        found = changes(before, now)
        for kind, subject, text in islice(found, MAX_AT_ONCE):
            self.add(now.at, kind, subject, text)
        if more := sum(1 for _ in found):
            self.add(now.at, "sidecar", "", f"and {more} more changes at the same time")


def changes(before: Look, now: Look) -> Iterator[tuple[str, str, str]]:
    """Kind, subject and text of every change."""
    yield from _sidecar(before, now)
    old, new = before.snapshots, now.snapshots
    for name in sorted(new.keys() - old.keys()):
        yield "pool", name, f"the pool is served, with {len(new[name].table.ready)} ready endpoints"
    for name in sorted(old.keys() - new.keys()):
        yield "pool", name, "the pool is gone"
    for name in sorted(new.keys() & old.keys()):
        if new[name] is not old[name]:
            yield from _pool(name, old[name], new[name])
    yield from _pickers(before.counters, now.counters)


def _sidecar(before: Look, now: Look) -> Iterator[tuple[str, str, str]]:
    for name in sorted(now.reasons.keys() - before.reasons.keys()):
        yield "sidecar", "", f"not ready: {name}: {now.reasons[name]}"
    if before.reasons and not now.reasons:
        yield "sidecar", "", "ready"
    if now.envoys != before.envoys:
        yield "envoy", "", f"{now.envoys} Envoys are connected (were {before.envoys})"
    if now.nacks > before.nacks:
        yield "envoy", "", f"Envoy rejected {now.nacks - before.nacks} configurations"
    if now.counters.restarts > before.counters.restarts:
        count = now.counters.restarts - before.counters.restarts
        yield "workers", "", f"{count} relay workers crashed and were restarted"
    if now.workers != before.workers:
        yield "workers", "", f"{now.workers} relay workers serve (were {before.workers})"
    gone, come = set(before.problems) - set(now.problems), set(now.problems) - set(before.problems)
    for problem in sorted(come, key=str)[:NAMED]:
        yield "sidecar", "", f"{problem.severity} in an object: {problem}"
    for problem in sorted(gone, key=str)[:NAMED]:
        yield "sidecar", "", f"mended: {problem}"


def _pool(name: str, old: PoolSnapshot, new: PoolSnapshot) -> Iterator[tuple[str, str, str]]:
    if old.pool != new.pool:
        fields = [
            field
            for field in type(new.pool).__dataclass_fields__
            if getattr(old.pool, field) != getattr(new.pool, field)
        ]
        yield "pool", name, f"the InferencePool has changed: {', '.join(fields)}"
    if old.table is not new.table:
        yield from _endpoints(name, old, new)
    before = old.picker.addresses if old.picker is not None else ()
    after = new.picker.addresses if new.picker is not None else ()
    if before != after:
        text = _listed(after) if after else (new.picker.problem or "") if new.picker else ""
        yield "picker", name, f"the picker's addresses are now {text or 'none'}"


def _endpoints(name: str, old: PoolSnapshot, new: PoolSnapshot) -> Iterator[tuple[str, str, str]]:
    before, after = old.table.by_key, new.table.by_key
    parts = []
    come = [after[key].pod or key for key in after.keys() - before.keys()]
    gone = [before[key].pod or key for key in before.keys() - after.keys()]
    both = after.keys() & before.keys()
    drain = [after[key].pod or key for key in both if before[key].ready and not after[key].ready]
    back = [after[key].pod or key for key in both if after[key].ready and not before[key].ready]
    for names, what in ((come, "new"), (back, "ready again"), (drain, "draining"), (gone, "gone")):
        if names:
            parts.append(f"{len(names)} {what} ({_listed(sorted(names))})")
    if parts:
        yield "endpoints", name, f"{', '.join(parts)}; {len(new.table.ready)} ready"


def _pickers(before: Counters, now: Counters) -> Iterator[tuple[str, str, str]]:
    for pool, addresses in now.pickers.items():
        old = before.pickers.get(pool, {})
        for address, state in addresses.items():
            was = old.get(address, Health.UNTRIED)
            if state is was or (was is Health.UNTRIED and state in USABLE):
                continue
            yield "picker", pool, f"picker {address} is {_words(state)} (was {_words(was)})"


def _words(state: Health) -> str:
    return str(state).replace("_", " ")


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:NAMED]) + (f" and {len(found) - NAMED} more" * (len(found) > NAMED))
