"""Metric families of the request counters, summed over all processes.

Each known pool has its series from the start, with zeros: a counter whose first sample is 1 has no rate, so
that the first failure of a pool would raise no alert.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from epp_client.errors import ENDPOINT_REASONS, LeftOut, Reason
from epp_client.metrics.counters import (
    PICK_BUCKETS,
    UNKNOWN_POOL,
    Counters,
    PoolCounters,
    bucket,
    pool_labels,
)
from epp_client.metrics.decisions import Decision
from epp_client.picker.health import Health
from epp_client.relay.outcome import Eviction, Outcome

MAX_ZEROED: Final = 100
"""Known pools, in the order of their names, that have series of what has not happened yet: 80 for each.
Further pools have those of what has happened."""
POOL: Final = ("namespace", "pool")
"""The labels of a pool."""

_UNKNOWN: Final = (Reason.POOL_NOT_NAMED, Reason.POOL_UNKNOWN, Reason.POOL_NOT_SYNCED)
_OF_PICKER: Final = tuple(r for r in Reason if r.startswith("picker_"))
_OF_PICK: Final = tuple(r for r in Reason if r.startswith("pick_"))
_REFUSED: Final = tuple(r for r in Reason if r not in (*_UNKNOWN, *ENDPOINT_REASONS))
_NONE: Final = PoolCounters()


class _ByLabel(NamedTuple):
    """A counter with the labels of the pool and one more label."""

    name: str
    label: str
    help: str
    counts: Callable[[PoolCounters], Mapping[Any, int]]
    expected: Collection[Any]
    """Values of the label whose series exist from the start. Others come when they are counted."""


class _Plain(NamedTuple):
    """A counter with the labels of the pool only."""

    name: str
    help: str
    count: Callable[[PoolCounters], int]


_BY_LABEL: Final = (
    _ByLabel(
        "epp_client_requests",
        "outcome",
        "Requests by outcome.",
        lambda c: c.outcomes,
        tuple(Outcome),
    ),
    _ByLabel(
        "epp_client_fail_open",
        "reason",
        "Requests served without their picker, by reason.",
        lambda c: c.failed_open,
        (*_OF_PICKER, *_OF_PICK),
    ),
    _ByLabel(
        "epp_client_refused",
        "reason",
        "Requests that the sidecar answered with an error, by reason.",
        lambda c: c.refused,
        _REFUSED,
    ),
    _ByLabel(
        "epp_client_response_passthrough",
        "reason",
        "Responses that were passed on without the picker from some point, by reason.",
        lambda c: c.passthrough,
        (*_OF_PICKER, Reason.BODY_NOT_RETAINED),
    ),
    _ByLabel(
        "epp_client_answers_left_out",
        "what",
        "Parts of pickers' answers that were left out because they break HTTP or cannot be applied.",
        lambda c: c.left_out,
        tuple(LeftOut),
    ),
    _ByLabel(
        "epp_client_evictions",
        "result",
        "Requests that their picker gave up after steering them, by result.",
        lambda c: c.evictions,
        tuple(Eviction),
    ),
    _ByLabel(
        "epp_client_endpoint_failures",
        "reason",
        "Requests that Envoy answered itself instead of their endpoints, by reason.",
        lambda c: c.endpoint_failures,
        ENDPOINT_REASONS,
    ),
)
_PLAIN: Final = (
    _Plain(
        "epp_client_endpoint_errors",
        "Requests that their endpoint answered with a status of 500 or above. Not with response mode skip.",
        lambda c: c.endpoint_errors,
    ),
    _Plain(
        "epp_client_endpoints_passed_over",
        "Destination endpoints that Envoy could not connect to, so that it tried the next.",
        lambda c: c.passed_over,
    ),
    _Plain(
        "epp_client_picker_retries",
        "Picks that were asked again because the picker's stream ended before it had answered.",
        lambda c: c.retries,
    ),
    _Plain(
        "epp_client_bodies_not_retained",
        "Requests whose body was too large to be retained for a replay.",
        lambda c: c.not_retained,
    ),
)


Exemplars = dict[str, dict[int, Exemplar]]
"""By pool, and then by bucket of its picks."""
_NO_EXEMPLARS: Final[Mapping[int, Exemplar]] = {}


class RequestCollector(Collector):
    """Collects the `totals` that it was given last, of pools that are `known` and of others."""

    def __init__(self) -> None:
        self.totals = Counters()
        self.known: Collection[str] = ()
        """`namespace/name` of each pool that exists."""
        self.exemplars: Exemplars = {}
        """Traces of single picks, for OpenMetrics."""

    def collect(self) -> Iterable[Metric]:
        """All families of the current totals."""
        zeroed = {UNKNOWN_POOL, *sorted(self.known)[:MAX_ZEROED]}
        pools = {
            name: (pool_labels(name), self.totals.pools.get(name, _NONE))
            for name in sorted({*self.totals.pools, *zeroed})
        }
        for row in _BY_LABEL:
            family = CounterMetricFamily(row.name, row.help, labels=[*POOL, row.label])
            for name, (labels, counters) in pools.items():
                counts = row.counts(counters)
                expected = _expected(row, name) if name in zeroed else ()
                for value in dict.fromkeys((*expected, *counts)):
                    family.add_metric([*labels, value], counts.get(value, 0))
            yield family
        for name, text, plain in _PLAIN:
            family = CounterMetricFamily(name, text, labels=POOL)
            for labels, counters in pools.values():
                family.add_metric(labels, plain(counters))
            yield family
        yield from self._of_pools(list(pools.values()))
        yield from self._now()
        yield CounterMetricFamily(
            "epp_client_worker_restarts",
            "Relay workers that crashed and were restarted.",
            value=self.totals.restarts,
        )

    def _of_pools(
        self, pools: Collection[tuple[tuple[str, str], PoolCounters]]
    ) -> Iterator[Metric]:
        picks = HistogramMetricFamily(
            "epp_client_pick_seconds", "Seconds from the end of a request to its pick.", labels=POOL
        )
        exchanges = HistogramMetricFamily(
            "epp_client_exchange_seconds",
            "Seconds from a request to the end of its exchange with Envoy.",
            labels=POOL,
        )
        gaps = HistogramMetricFamily(
            "epp_client_response_gap_seconds",
            "Seconds between two parts of a response, of one response of 16.",
            labels=POOL,
        )
        in_flight = GaugeMetricFamily(
            "epp_client_in_flight", "Requests being relayed.", labels=POOL
        )
        for labels, counters in pools:
            traced = self.exemplars.get("/".join(labels), _NO_EXEMPLARS)
            picks.add_metric(labels, _buckets(counters.picks, traced), counters.pick_seconds)
            exchanges.add_metric(labels, _buckets(counters.exchanges), counters.exchange_seconds)
            gaps.add_metric(labels, _buckets(counters.gaps), counters.gap_seconds)
            in_flight.add_metric(labels, counters.in_flight)
        yield picks
        yield exchanges
        yield gaps
        yield in_flight

    def _now(self) -> Iterator[Metric]:
        pickers = GaugeMetricFamily(
            "epp_client_picker_addresses",
            "Addresses of the endpoint picker by health, the worst that any relay sees.",
            labels=[*POOL, "state"],
        )
        for pool, addresses in self.totals.pickers.items():
            for state in Health:
                count = sum(s is state for s in addresses.values())
                pickers.add_metric([*pool_labels(pool), state], count)
        yield pickers
        yield GaugeMetricFamily(
            "epp_client_retained_bytes",
            "Bytes of bodies retained for replays.",
            value=self.totals.retained_bytes,
        )


def _expected(row: _ByLabel, pool: str) -> Collection[Any]:
    """The values of a label that a pool has from the start. Requests for an unknown pool are refused."""
    if pool != UNKNOWN_POOL:
        return row.expected
    return _UNKNOWN if row.expected is _REFUSED else ()


def exemplars_of(decisions: Iterable[Decision]) -> Exemplars:
    """The newest traced pick of each bucket of each pool. `decisions`: oldest first."""
    found: Exemplars = {}
    for one in decisions:
        if one.trace_id and one.pick_seconds is not None:
            place = bucket(one.pick_seconds)
            exemplar = Exemplar({"trace_id": one.trace_id}, one.pick_seconds, one.at)
            found.setdefault(one.pool, {})[place] = exemplar
    return found


def _buckets(counts: Iterable[int], exemplars: Mapping[int, Exemplar] = _NO_EXEMPLARS) -> list[Any]:
    """Bounds and cumulative counts, with an exemplar where there is one."""
    bounds = [*map(floatToGoString, PICK_BUCKETS), "+Inf"]
    rows = enumerate(zip(bounds, map(float, accumulate(counts)), strict=True))
    return [(*row, exemplars.get(index)) for index, row in rows]
