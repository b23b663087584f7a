"""Every metric of the sidecar, in a registry of its own. Names are `epp_client_*`; no policy here.

Label values are bounded: pools that exist plus `unknown`, and closed sets; the series of a deleted
pool go once they have been scraped. No request comes here: requests count in `relay.counters`.
"""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from epp_client import __version__
from epp_client.picker.health import Health
from epp_client.pool.endpoints import EndpointTable
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.problems import Severity
from epp_client.pool.store import PoolStore
from epp_client.relay.counters import PICK_BUCKETS, UNKNOWN_POOL, Counters


class Scrape(NamedTuple):
    """The answer to one scrape."""

    body: bytes
    content_type: str
    forgotten: set[str]
    """Deleted pools whose numbers nobody needs any more."""


class _Requests(Collector):
    """What came of the requests, as metric families."""

    def __init__(self) -> None:
        self.totals = Counters()

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "epp_client_requests", "Requests by outcome.", labels=["pool", "outcome"]
        )
        picks = HistogramMetricFamily(
            "epp_client_pick_seconds",
            "Seconds from the end of a request to its pick.",
            labels=["pool"],
        )
        fail_open = CounterMetricFamily(
            "epp_client_fail_open",
            "Requests served without their picker, by reason.",
            labels=["pool", "reason"],
        )
        refused = CounterMetricFamily(
            "epp_client_refused",
            "Requests answered with an error of ours, by reason.",
            labels=["pool", "reason"],
        )
        passthrough = CounterMetricFamily(
            "epp_client_response_passthrough",
            "Responses that went on without the picker, by reason.",
            labels=["pool", "reason"],
        )
        left_out = CounterMetricFamily(
            "epp_client_answers_left_out",
            "Parts of pickers' answers that break HTTP or cannot be applied, by what they are.",
            labels=["pool", "what"],
        )
        evictions = CounterMetricFamily(
            "epp_client_evictions",
            "Requests that their picker gave up after it had steered them, by what came of them.",
            labels=["pool", "result"],
        )
        endpoint_failures = CounterMetricFamily(
            "epp_client_endpoint_failures",
            "Requests that Envoy answered in the place of their endpoints, by reason.",
            labels=["pool", "reason"],
        )
        passed_over = CounterMetricFamily(
            "epp_client_endpoints_passed_over",
            "Destination endpoints that took no connection, so that Envoy tried the next.",
            labels=["pool"],
        )
        in_flight = GaugeMetricFamily(
            "epp_client_in_flight", "Requests being relayed.", labels=["pool"]
        )
        retries = CounterMetricFamily(
            "epp_client_picker_retries",
            "Picks asked anew because the picker's stream died before it had answered.",
            labels=["pool"],
        )
        not_retained = CounterMetricFamily(
            "epp_client_bodies_not_retained",
            "Requests whose body was too large to be kept for a replay.",
            labels=["pool"],
        )
        pickers = GaugeMetricFamily(
            "epp_client_picker_addresses",
            "Addresses of the endpoint picker, by the worst that a relay thinks of them.",
            labels=["pool", "state"],
        )
        retained = GaugeMetricFamily(
            "epp_client_retained_bytes",
            "Bytes of bodies kept for a replay.",
            value=self.totals.retained_bytes,
        )
        restarts = CounterMetricFamily(
            "epp_client_worker_restarts",
            "Relay workers that died and were replaced.",
            value=self.totals.restarts,
        )
        for pool, counters in self.totals.pools.items():
            for outcome, count in counters.outcomes.items():
                requests.add_metric([pool, outcome], count)
            for family, counts in (
                (fail_open, counters.failed_open),
                (refused, counters.refused),
                (passthrough, counters.passthrough),
                (endpoint_failures, counters.endpoint_failures),
            ):
                for reason, count in counts.items():
                    family.add_metric([pool, reason], count)
            for what, count in counters.left_out.items():
                left_out.add_metric([pool, what], count)
            for result, count in counters.evictions.items():
                evictions.add_metric([pool, result], count)
            in_flight.add_metric([pool], counters.in_flight)
            picks.add_metric([pool], _buckets(counters.picks), counters.pick_seconds)
            retries.add_metric([pool], counters.retries)
            not_retained.add_metric([pool], counters.not_retained)
            passed_over.add_metric([pool], counters.passed_over)
        for pool, addresses in self.totals.pickers.items():
            for state in Health:
                pickers.add_metric([pool, state], sum(s is state for s in addresses.values()))
        return (
            requests,
            picks,
            fail_open,
            refused,
            passthrough,
            left_out,
            evictions,
            endpoint_failures,
            passed_over,
            in_flight,
            retries,
            not_retained,
            pickers,
            retained,
            restarts,
        )


def _buckets(picks: Iterable[int]) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, PICK_BUCKETS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(picks)), strict=True))


class ApiSource(Protocol):
    """Who follows an API server, and what that has taken."""

    def stale(self) -> float:
        """Seconds for which something could not be followed."""

    def asked(self) -> Mapping[str, int]:
        """How often what was asked: `list`, `watch`."""

    def faults(self) -> Mapping[str, int]:
        """How often it was refused, by fault."""

    def events(self) -> int:
        """Events of watches."""

    def status_writes(self) -> Mapping[str, int] | None:
        """Writes of pool status, by what became of them; None when none is reported."""

    def status_leader(self) -> bool:
        """Whether this replica is the one that writes status."""


class _Api(Collector):
    """What an API server has been asked."""

    def __init__(self, source: ApiSource) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        stale = GaugeMetricFamily(
            "epp_client_api_stale_seconds",
            "Seconds since something of the Kubernetes API could not be followed; 0 when all is.",
            value=self._source.stale(),
        )
        requests = CounterMetricFamily(
            "epp_client_api_requests", "Lists and watches of the Kubernetes API.", labels=["verb"]
        )
        for verb, count in self._source.asked().items():
            requests.add_metric([verb], count)
        faults = CounterMetricFamily(
            "epp_client_api_faults", "Calls of the Kubernetes API that failed.", labels=["fault"]
        )
        for fault, count in self._source.faults().items():
            faults.add_metric([fault], count)
        events = CounterMetricFamily(
            "epp_client_api_events", "Events of watches.", value=self._source.events()
        )
        return [stale, requests, faults, events, *self._status()]

    def _status(self) -> Iterable[Metric]:
        counts = self._source.status_writes()
        if counts is None:
            return
        writes = CounterMetricFamily(
            "epp_client_status_writes",
            "Writes of an InferencePool's status, by what became of them.",
            labels=["result"],
        )
        for result, count in counts.items():
            writes.add_metric([result], count)
        yield writes
        yield GaugeMetricFamily(
            "epp_client_status_leader",
            "Whether this replica is the one that writes status.",
            value=self._source.status_leader(),
        )


def current(metric: Counter | Gauge) -> float:
    """What a counter or gauge stands at, over all its labels."""
    samples = (sample for family in metric.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if not sample.name.endswith("_created"))


class Metrics:
    """The registry of one process."""

    def __init__(self, transport: str) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = _Requests()
        registry.register(self._requests)
        self.endpoints = Gauge(
            "epp_client_endpoints", "Endpoints by state.", ["pool", "state"], registry=registry
        )
        self.workers = Gauge("epp_client_workers", "Relay workers that serve.", registry=registry)
        self.pools = Gauge("epp_client_pools", "InferencePools served.", registry=registry)
        self.problems = Gauge(
            "epp_client_problems", "Problems now.", ["severity"], registry=registry
        )
        self.xds_pushes = Counter(
            "epp_client_xds_pushes", "Responses sent to Envoy.", ["type"], registry=registry
        )
        self.xds_nacks = Counter(
            "epp_client_xds_nacks", "Responses that Envoy rejected.", ["type"], registry=registry
        )
        self.envoys = Gauge("epp_client_envoys_connected", "Open ADS streams.", registry=registry)
        Gauge(
            "epp_client_build_info", "Always 1.", ["version", "transport"], registry=registry
        ).labels(__version__, transport).set(1)
        self._known = {UNKNOWN_POOL}

    def follow_api(self, source: ApiSource) -> None:
        """Have the scrape say how the Kubernetes API is followed."""
        self.registry.register(_Api(source))

    def pools_changed(self, store: PoolStore, changed: Iterable[PoolName]) -> None:
        """Follow the store. The gauges of deleted pools go at once, their counters when scraped."""
        self.pools.set(len(store.snapshots))
        for severity in Severity:
            count = sum(problem.severity is severity for problem in store.problems)
            self.problems.labels(severity).set(count)
        for name in map(str, changed):
            snapshot = store.snapshots.get(name)
            if snapshot is None:
                self._forget_gauges(name)
                self._known.discard(name)
                continue
            self._known.add(name)
            self._count_when_scraped(name, snapshot.table)

    def _count_when_scraped(self, name: str, table: EndpointTable) -> None:
        """Not at each change: a large pool may change a hundred times between two scrapes."""
        self.endpoints.labels(name, "ready").set_function(lambda: len(table.ready))
        self.endpoints.labels(name, "draining").set_function(lambda: table.draining)

    def _forget_gauges(self, name: str) -> None:
        for state in ("ready", "draining"):
            self.endpoints.remove(name, state)

    def scrape(self, totals: Counters, accept: str = "") -> Scrape:
        """Every series now, with `totals` over all relays: OpenMetrics when `accept` asks for it.

        A deleted pool is in one last scrape after its last request has ended, so that a rate
        over the deletion loses nothing; then its series are gone.
        """
        encode, content_type = choose_encoder(accept)
        self._requests.totals = totals
        body = encode(self.registry)
        # A relay may hear of the deletion later, and count for the pool until then.
        gone = totals.pools.keys() - self._known
        forgotten = {name for name in gone if not totals.pools[name].in_flight}
        return Scrape(body, content_type, forgotten)
