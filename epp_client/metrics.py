"""Every metric of the sidecar, in a registry of its own. Names are `epp_client_*`; no policy here.

Label values are bounded: pools that exist plus `unknown`, and closed sets; the series of a deleted
pool go once they have been scraped. No request comes here: requests count in `relay.counters`.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

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
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.problems import Severity
from epp_client.pool.store import PoolStore
from epp_client.relay.counters import PICK_BUCKETS, Counters


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
        in_flight = GaugeMetricFamily(
            "epp_client_in_flight", "Requests being relayed.", labels=["pool"]
        )
        retained = GaugeMetricFamily(
            "epp_client_retained_bytes",
            "Bytes of bodies kept for a replay.",
            value=self.totals.retained_bytes,
        )
        for pool, counters in self.totals.pools.items():
            for outcome, count in counters.outcomes.items():
                requests.add_metric([pool, outcome], count)
            for family, counts in (
                (fail_open, counters.failed_open),
                (refused, counters.refused),
                (passthrough, counters.passthrough),
            ):
                for reason, count in counts.items():
                    family.add_metric([pool, reason], count)
            in_flight.add_metric([pool], counters.in_flight)
            picks.add_metric([pool], _buckets(counters.picks), counters.pick_seconds)
        return requests, picks, fail_open, refused, passthrough, in_flight, retained


def _buckets(picks: Iterable[int]) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, PICK_BUCKETS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(picks)), strict=True))


class Metrics:
    """The registry of one process."""

    def __init__(self, transport: str) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = _Requests()
        registry.register(self._requests)
        self.endpoints = Gauge(
            "epp_client_endpoints", "Endpoints by state.", ["pool", "state"], registry=registry
        )
        self.picker_addresses = Gauge(
            "epp_client_picker_addresses",
            "Ready addresses of the endpoint picker.",
            ["pool"],
            registry=registry,
        )
        self.pools = Gauge("epp_client_pools", "InferencePools served.", registry=registry)
        self.problems = Gauge(
            "epp_client_manifest_problems", "Problems now.", ["severity"], registry=registry
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
        self._deleted: set[str] = set()

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
                self._deleted.add(name)
                continue
            self._deleted.discard(name)
            ready = len(snapshot.table.ready)
            self.endpoints.labels(name, "ready").set(ready)
            self.endpoints.labels(name, "draining").set(len(snapshot.table.by_key) - ready)
            addresses = snapshot.picker.addresses if snapshot.picker else ()
            self.picker_addresses.labels(name).set(len(addresses))

    def _forget_gauges(self, name: str) -> None:
        for state in ("ready", "draining"):
            self.endpoints.remove(name, state)
        self.picker_addresses.remove(name)

    def scrape(self, totals: Counters, accept: str = "") -> Scrape:
        """Every series now, with `totals` over all relays: OpenMetrics when `accept` asks for it.

        A deleted pool is in one last scrape after its last request has ended, so that a rate
        over the deletion loses nothing; then its series are gone.
        """
        encode, content_type = choose_encoder(accept)
        self._requests.totals = totals
        body = encode(self.registry)
        # Forgetting a pool with requests in flight would have them end in a series below zero.
        forgotten = {name for name in self._deleted if not totals.pool(name).in_flight}
        self._deleted -= forgotten
        return Scrape(body, content_type, forgotten)
