"""Counters of one process's requests, by pool: plain numbers that can be added up. Pure.

A request only adds to integers. Prometheus's types are made at the scrape, in `requests`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mypy_extensions import mypyc_attr

from epp_client.errors import LeftOut, Reason
from epp_client.picker.health import Health
from epp_client.relay.outcome import Eviction, Outcome
from epp_client.relay.uses import Use

UNKNOWN_POOL = "unknown"
"""Label of all pools that Envoy names and that do not exist. The number of their own names has no bound."""

PICK_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1, 2.5, 5, 10, 30, 60, 120, 300,
)  # fmt: skip
"""Upper bounds in seconds."""
_BOUNDS: Final = [float(bound) for bound in PICK_BUCKETS]


def bucket(seconds: float) -> int:
    """The place in `picks` of a time: that of the first bound that is not below it, or the one after all.
    Compiled, a search from the front takes a tenth of the time of `bisect_left`, and most times are short.
    """
    place = 0
    for bound in _BOUNDS:
        if seconds <= bound:
            break
        place += 1
    return place


def pool_labels(name: str) -> tuple[str, str]:
    """The values of the labels `namespace` and `pool` for `namespace/name`. The namespace of `unknown` is
    empty, which no pool has."""
    namespace, _, pool = name.rpartition("/")
    return namespace, pool


@mypyc_attr(serializable=True)
@dataclass
class PoolCounters:
    """The counters of one pool. All but `in_flight` only grow."""

    in_flight: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    failed_open: dict[Reason, int] = field(default_factory=dict)
    refused: dict[Reason, int] = field(default_factory=dict)
    passthrough: dict[Reason, int] = field(default_factory=dict)
    left_out: dict[LeftOut, int] = field(default_factory=dict)
    evictions: dict[Eviction, int] = field(default_factory=dict)
    endpoint_failures: dict[Reason, int] = field(default_factory=dict)
    picks: list[int] = field(default_factory=lambda: [0] * (len(PICK_BUCKETS) + 1))
    """Picks per bucket, not cumulative. The last bucket is above every bound."""
    exchanges: list[int] = field(default_factory=lambda: [0] * (len(PICK_BUCKETS) + 1))
    """Exchanges per bucket, by their whole duration, as in `picks`."""
    exchange_seconds: float = 0.0
    """Sum of all exchanges' seconds."""
    gaps: list[int] = field(default_factory=lambda: [0] * (len(PICK_BUCKETS) + 1))
    """Gaps between two parts of a response per bucket, of one response of 16."""
    gap_seconds: float = 0.0
    """Sum of these gaps' seconds."""
    pick_seconds: float = 0.0
    """Sum of all picks' seconds."""
    retries: int = 0
    """Picks that were asked again because the picker's stream ended before it had answered."""
    endpoint_errors: int = 0
    """Requests that their endpoint answered with a status of 500 or above."""
    passed_over: int = 0
    """Destination endpoints that Envoy could not connect to, so that it tried the next of the list."""
    uses: dict[Use, int] = field(default_factory=dict)
    """Steered requests by what their picker has made of their messages."""
    not_retained: int = 0
    """Requests whose body was too large to be retained for a replay."""

    def outcome(self, outcome: Outcome) -> None:
        """Count a request that has ended."""
        self.outcomes[outcome] += 1

    def picked(self, seconds: float) -> None:
        """Count a pick that came `seconds` after the end of its request."""
        self.picks[bucket(seconds)] += 1
        self.pick_seconds += seconds

    def fail_open(self, reason: Reason) -> None:
        """Count a request that was served without its picker."""
        self.failed_open[reason] = self.failed_open.get(reason, 0) + 1

    def refuse(self, reason: Reason) -> None:
        """Count a request that we answered with an error."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def pass_through(self, reason: Reason) -> None:
        """Count a response that was taken over from the picker."""
        self.passthrough[reason] = self.passthrough.get(reason, 0) + 1

    def leave_out(self, what: LeftOut, count: int) -> None:
        """Count parts that were left out of a picker's answer."""
        self.left_out[what] = self.left_out.get(what, 0) + count

    def evict(self, eviction: Eviction) -> None:
        """Count an eviction: a request that its picker gave up after steering it."""
        self.evictions[eviction] = self.evictions.get(eviction, 0) + 1

    def endpoint_fail(self, reason: Reason) -> None:
        """Count a request that Envoy answered itself, instead of its endpoints."""
        self.endpoint_failures[reason] = self.endpoint_failures.get(reason, 0) + 1

    def use(self, use: Use) -> None:
        """Count what a picker has made of messages."""
        self.uses[use] = self.uses.get(use, 0) + 1

    def add(self, other: "PoolCounters") -> None:
        """Add another process's counters of the same pool."""
        self.in_flight += other.in_flight
        for mine, theirs in (
            (self.outcomes, other.outcomes),
            (self.failed_open, other.failed_open),
            (self.refused, other.refused),
            (self.passthrough, other.passthrough),
            (self.left_out, other.left_out),
            (self.evictions, other.evictions),
            (self.endpoint_failures, other.endpoint_failures),
            (self.uses, other.uses),
        ):
            _add(mine, theirs)
        self.picks = [a + b for a, b in zip(self.picks, other.picks, strict=True)]
        self.pick_seconds += other.pick_seconds
        self.exchanges = [a + b for a, b in zip(self.exchanges, other.exchanges, strict=True)]
        self.exchange_seconds += other.exchange_seconds
        self.gaps = [a + b for a, b in zip(self.gaps, other.gaps, strict=True)]
        self.gap_seconds += other.gap_seconds
        self.retries += other.retries
        self.endpoint_errors += other.endpoint_errors
        self.passed_over += other.passed_over
        self.not_retained += other.not_retained


_BADNESS = {state: index for index, state in enumerate(Health)}


def _add(mine: dict[Any, int], theirs: Mapping[Any, int]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count


@mypyc_attr(serializable=True)
@dataclass
class Counters:
    """All counters of one process."""

    pools: dict[str, PoolCounters] = field(default_factory=dict)
    """By `namespace/name`, and `unknown`."""
    pickers: dict[str, dict[str, Health]] = field(default_factory=dict)
    """Health of each address of each pool's picker. `add` keeps the worst of several processes' results."""
    retained_bytes: int = 0
    restarts: int = 0
    """Relay workers that crashed and were restarted."""

    def pool(self, name: str) -> PoolCounters:
        """The counters of one pool, created if missing."""
        found = self.pools.get(name)
        if found is None:
            found = self.pools[name] = PoolCounters()
        return found

    def add(self, other: "Counters") -> None:
        """Add another process's counters."""
        self.retained_bytes += other.retained_bytes
        for name, counters in other.pools.items():
            self.pool(name).add(counters)
        for name, theirs in other.pickers.items():
            mine = self.pickers.setdefault(name, {})
            for address, state in theirs.items():
                mine[address] = max(mine.get(address, state), state, key=_BADNESS.__getitem__)

    def settled(self) -> "Counters":
        """Reset what ends with the process: in-flight requests, retained bytes, health of pickers."""
        self.retained_bytes = 0
        self.pickers = {}
        for counters in self.pools.values():
            counters.in_flight = 0
        return self
