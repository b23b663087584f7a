"""The data of the dashboard: one row per pool, never its endpoints, and a bounded number of rows.

Plain values in and out; no HTTP, no clock.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from epp_client.metrics.counters import Counters, PoolCounters
from epp_client.observe.advice import advice
from epp_client.observe.interval import QUIET, Interval, quantile
from epp_client.observe.judge import Judgement, Level, subjects
from epp_client.picker.health import USABLE, Health
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.relay.outcome import Outcome

MAX_POOLS = 500
"""Pools in one answer."""
MAX_PROBLEMS = 20
"""Problems in one answer."""


def pools_page(
    snapshots: Iterable[PoolSnapshot],
    problems: Sequence[Problem],
    counters: Counters,
    minute: Mapping[str, Interval],
    judgement: Judgement,
    *,
    query: str = "",
    offset: int = 0,
    limit: int = MAX_POOLS,
) -> dict[str, Any]:
    """Rows `offset` to `offset + limit` of the pools whose names contain `query`. Pools with trouble come
    first. `minute` has the last minute's requests of pools that had some."""
    levels = subjects(judgement.findings)
    troubled: dict[str, int] = {}
    for problem in problems:
        troubled[problem.subject] = troubled.get(problem.subject, 0) + 1
    rows = []
    total = 0
    for snapshot in snapshots:
        total += 1
        if query in str(snapshot.pool.name):
            said = troubled.get(f"InferencePool {snapshot.pool.name}", 0)
            health = counters.pickers.get(str(snapshot.pool.name), {})
            level = levels.get(str(snapshot.pool.name), Level.OK)
            trouble = _trouble(snapshot, said, health)
            rows.append((-level, trouble, snapshot.pool.name, said, snapshot))
    rows.sort(key=lambda row: row[:3])
    page = rows[max(0, offset) : max(0, offset) + max(0, min(limit, MAX_POOLS))]
    return {
        "total": total,
        "matching": len(rows),
        "offset": offset,
        "rows": [
            {
                "level": Level(-level).name.lower(),
                **_row(
                    snapshot,
                    said,
                    counters.pools.get(str(name), PoolCounters()),
                    counters.pickers.get(str(name), {}),
                ),
                "minute": minute_numbers(minute.get(str(name), QUIET)),
            }
            for level, _, name, said, snapshot in page
        ],
    }


def problems_page(problems: Sequence[Problem]) -> dict[str, Any]:
    """The numbers of errors and warnings, and the first MAX_PROBLEMS of them, errors first."""
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    first = sorted(problems, key=lambda problem: problem.severity is not Severity.ERROR)
    return {
        "errors": errors,
        "warnings": len(problems) - errors,
        "first": [
            {"severity": str(problem.severity), "text": str(problem)}
            for problem in first[:MAX_PROBLEMS]
        ],
    }


def totals(counters: Counters) -> dict[str, Any]:
    """The sums over all pools, including requests that named no known pool."""
    everything = PoolCounters()
    for pool in counters.pools.values():
        everything.add(pool)
    return _numbers(everything)


def minute_numbers(minute: Interval) -> dict[str, Any]:
    """The numbers of a minute. Latencies are in seconds, None without requests."""
    return {
        "requests": minute.requests,
        "steered": minute.outcome(Outcome.STEERED) + minute.outcome(Outcome.LOCAL_PICK),
        "failedOpen": _plain(minute.failed_open),
        "refused": _plain(minute.refused),
        "endpointFailures": _plain(minute.endpoint_failures),
        "pickP50": quantile(minute.picks, 0.5),
        "pickP99": quantile(minute.picks, 0.99),
        "exchangeP50": quantile(minute.exchanges, 0.5),
        "exchangeP99": quantile(minute.exchanges, 0.99),
    }


def _trouble(snapshot: PoolSnapshot, problems: int, health: Mapping[str, Health]) -> int:
    """0: no ready endpoint. 1: no usable picker address. 2: has problems. 3: none of these."""
    if not snapshot.table.ready:
        return 0
    if snapshot.picker is not None:
        states = (health.get(address, Health.UNTRIED) for address in snapshot.picker.addresses)
        if not any(state in USABLE for state in states):
            return 1
    return 2 if problems else 3


def _row(
    snapshot: PoolSnapshot,
    problems: int,
    counters: PoolCounters,
    health: Mapping[str, Health],
) -> dict[str, Any]:
    pool, table = snapshot.pool, snapshot.table
    return {
        "namespace": pool.name.namespace,
        "name": pool.name.name,
        "trouble": _trouble(snapshot, problems, health),
        "failureMode": str(pool.failure_mode),
        "appProtocol": str(pool.app_protocol),
        "targetPorts": list(pool.target_ports),
        "requestMode": str(pool.settings.request_mode),
        "responseMode": str(pool.settings.response_mode),
        "ready": len(table.ready),
        "draining": table.draining,
        "picker": None
        if snapshot.picker is None
        else {
            "addresses": len(snapshot.picker.addresses),
            "health": _plain(
                Counter(health.get(a, Health.UNTRIED) for a in snapshot.picker.addresses)
            ),
            "problem": snapshot.picker.problem,
        },
        "problems": problems,
        "advice": advised(snapshot, counters),
        "behind": snapshot.acknowledged is not None and snapshot.acknowledged < table.generation,
        **_numbers(counters),
    }


def advised(snapshot: PoolSnapshot, counters: PoolCounters) -> list[str]:
    """Modes that would save messages."""
    steered = counters.outcomes[Outcome.STEERED]
    return advice(snapshot.pool.settings.modes, counters.uses, steered)


def _numbers(counters: PoolCounters) -> dict[str, Any]:
    return {
        "inFlight": counters.in_flight,
        "outcomes": _plain(counters.outcomes),
        "failedOpen": _plain(counters.failed_open),
        "refused": _plain(counters.refused),
        "passthrough": _plain(counters.passthrough),
        "picks": list(counters.picks),
    }


def _plain(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(key): count for key, count in counts.items() if count}
