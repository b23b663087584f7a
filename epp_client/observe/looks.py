"""Look: everything about the sidecar that its operators may be told, at one moment. Plain values. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from epp_client.metrics.counters import Counters
from epp_client.pool.problems import Problem
from epp_client.pool.snapshot import PoolSnapshot


class Look(NamedTuple):
    """One moment. Nothing in it changes afterwards."""

    at: float
    """Unix time in seconds."""
    now: float
    """Seconds of a clock that does not jump."""
    counters: Counters
    """The sums over all relays."""
    snapshots: Mapping[str, PoolSnapshot]
    problems: tuple[Problem, ...]
    synced: bool
    reasons: Mapping[str, str]
    """Conditions of readiness that do not hold, with their reasons."""
    envoys: int
    """Envoys that are connected for their configuration."""
    serves_xds: bool
    """Whether an Envoy should be connected."""
    nacks: int
    """Configurations that Envoy has rejected so far."""
    workers: int
    """Relay workers that serve; 0 if requests are served by the control process."""
