"""Metric families of the request counters, summed over all processes."""

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any, Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from epp_client.metrics.counters import PICK_BUCKETS, Counters, PoolCounters
from epp_client.picker.health import Health


class _ByLabel(NamedTuple):
    """A counter with the label `pool` and one more label."""

    name: str
    label: str
    help: str
    counts: Callable[[PoolCounters], Mapping[Any, int]]


class _Plain(NamedTuple):
    """A counter with the label `pool` only."""

    name: str
    help: str
    count: Callable[[PoolCounters], int]


_BY_LABEL: Final = (
    _ByLabel("epp_client_requests", "outcome", "Requests by outcome.", lambda c: c.outcomes),
    _ByLabel(
        "epp_client_fail_open",
        "reason",
        "Requests served without their picker, by reason.",
        lambda c: c.failed_open,
    ),
    _ByLabel(
        "epp_client_refused",
        "reason",
        "Requests that the sidecar answered with an error, by reason.",
        lambda c: c.refused,
    ),
    _ByLabel(
        "epp_client_response_passthrough",
        "reason",
        "Responses that were passed on without the picker from some point, by reason.",
        lambda c: c.passthrough,
    ),
    _ByLabel(
        "epp_client_answers_left_out",
        "what",
        "Parts of pickers' answers that were left out because they break HTTP or cannot be applied.",
        lambda c: c.left_out,
    ),
    _ByLabel(
        "epp_client_evictions",
        "result",
        "Requests that their picker gave up after steering them, by result.",
        lambda c: c.evictions,
    ),
    _ByLabel(
        "epp_client_endpoint_failures",
        "reason",
        "Requests that Envoy answered itself instead of their endpoints, by reason.",
        lambda c: c.endpoint_failures,
    ),
)
_PLAIN: Final = (
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


class RequestCollector(Collector):
    """Collects the `totals` that it was given last."""

    def __init__(self) -> None:
        self.totals = Counters()

    def collect(self) -> Iterable[Metric]:
        """All families of the current totals."""
        pools = self.totals.pools
        for name, label, text, counts in _BY_LABEL:
            family = CounterMetricFamily(name, text, labels=["pool", label])
            for pool, counters in pools.items():
                for value, count in counts(counters).items():
                    family.add_metric([pool, value], count)
            yield family
        for name, text, plain in _PLAIN:
            family = CounterMetricFamily(name, text, labels=["pool"])
            for pool, counters in pools.items():
                family.add_metric([pool], plain(counters))
            yield family
        yield self._histogram(
            "epp_client_pick_seconds",
            "Seconds from the end of a request to its pick.",
            lambda c: (c.picks, c.pick_seconds),
        )
        yield self._histogram(
            "epp_client_exchange_seconds",
            "Seconds from a request to the end of its exchange with Envoy.",
            lambda c: (c.exchanges, c.exchange_seconds),
        )
        yield from self._now()
        yield CounterMetricFamily(
            "epp_client_worker_restarts",
            "Relay workers that crashed and were restarted.",
            value=self.totals.restarts,
        )

    def _histogram(
        self, name: str, text: str, read: Callable[[PoolCounters], tuple[list[int], float]]
    ) -> Metric:
        family = HistogramMetricFamily(name, text, labels=["pool"])
        for pool, counters in self.totals.pools.items():
            counts, seconds = read(counters)
            family.add_metric([pool], _buckets(counts), seconds)
        return family

    def _now(self) -> Iterable[Metric]:
        """The gauges."""
        in_flight = GaugeMetricFamily(
            "epp_client_in_flight", "Requests being relayed.", labels=["pool"]
        )
        for pool, counters in self.totals.pools.items():
            in_flight.add_metric([pool], counters.in_flight)
        yield in_flight
        pickers = GaugeMetricFamily(
            "epp_client_picker_addresses",
            "Addresses of the endpoint picker by health, the worst that any relay sees.",
            labels=["pool", "state"],
        )
        for pool, addresses in self.totals.pickers.items():
            for state in Health:
                pickers.add_metric([pool, state], sum(s is state for s in addresses.values()))
        yield pickers
        yield GaugeMetricFamily(
            "epp_client_retained_bytes",
            "Bytes of bodies retained for replays.",
            value=self.totals.retained_bytes,
        )


def _buckets(counts: Iterable[int]) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, PICK_BUCKETS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(counts)), strict=True))
