"""All metrics of the sidecar, in a registry of its own. Names are `epp_client_*`; no policy here.

Label values are bounded: existing pools plus `unknown`, and closed sets. The series of a deleted pool are
removed once they have been scraped. Requests are counted in `counters`, not here.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import choose_encoder

from epp_client.metrics.api import ApiCollector, ApiSource
from epp_client.metrics.certificates import CertificateCollector, CertificateSource
from epp_client.metrics.counters import UNKNOWN_POOL, Counters, pool_labels
from epp_client.metrics.decisions import Decision
from epp_client.metrics.processes import ProcessCollector
from epp_client.metrics.reloads import ReloadCollector
from epp_client.metrics.requests import POOL, RequestCollector, exemplars_of
from epp_client.pool.endpoints import EndpointTable
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.problems import Severity
from epp_client.pool.store import PoolStore
from epp_client.version import VERSION, hot_path_compiled

XDS_TYPES: Final = ("cds", "eds", "lds", "rds", "sds")
"""Values of the label `type`. The last three are of a Gateway."""


class Scrape(NamedTuple):
    """The answer to one scrape."""

    body: bytes
    content_type: str
    forgotten: set[str]
    """Deleted pools without requests in flight, whose counters can be dropped."""


def current(metric: Counter | Gauge) -> float:
    """The value of a counter or gauge, summed over its labels."""
    samples = (sample for family in metric.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if not sample.name.endswith("_created"))


class Metrics:
    """The registry of one process."""

    def __init__(self, transport: str) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = RequestCollector()
        registry.register(self._requests)
        self.endpoints = Gauge(
            "epp_client_endpoints", "Endpoints by state.", [*POOL, "state"], registry=registry
        )
        self.workers = Gauge("epp_client_workers", "Relay workers that serve.", registry=registry)
        self.pools = Gauge("epp_client_pools", "InferencePools served.", registry=registry)
        self.problems = Gauge(
            "epp_client_problems", "Current problems by severity.", ["severity"], registry=registry
        )
        self.xds_pushes = Counter(
            "epp_client_xds_pushes", "Responses sent to Envoy.", ["type"], registry=registry
        )
        self.xds_nacks = Counter(
            "epp_client_xds_nacks", "Responses that Envoy rejected.", ["type"], registry=registry
        )
        for kind in XDS_TYPES:
            # With 0 from the start: an increase from nothing to 1 is none.
            self.xds_pushes.labels(kind)
            self.xds_nacks.labels(kind)
        self.envoys = Gauge("epp_client_envoys_connected", "Open ADS streams.", registry=registry)
        compiled = "true" if hot_path_compiled() else "false"
        Gauge(
            "epp_client_build_info",
            "Always 1. `compiled`: whether the hot path is, without which a request takes about four "
            "times the CPU.",
            ["version", "transport", "compiled"],
            registry=registry,
        ).labels(VERSION, transport, compiled).set(1)
        registry.register(ProcessCollector())
        self.reloads = ReloadCollector()
        registry.register(self.reloads)
        self._known = {UNKNOWN_POOL}

    def follow_api(self, source: ApiSource) -> None:
        """Add the metrics of a source that follows the Kubernetes API."""
        self.registry.register(ApiCollector(source))

    def follow_certificates(self, source: CertificateSource) -> None:
        """Add the metrics of certificates."""
        self.registry.register(CertificateCollector(source))

    def pools_changed(self, store: PoolStore, changed: Iterable[PoolName]) -> None:
        """Update the gauges from the store. Deleted pools lose their gauges now, their counters after a
        scrape."""
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
        """Count at scrapes, not at changes: a large pool may change a hundred times between two scrapes."""
        pool = pool_labels(name)
        self.endpoints.labels(*pool, "ready").set_function(lambda: len(table.ready))
        self.endpoints.labels(*pool, "draining").set_function(lambda: table.draining)

    def _forget_gauges(self, name: str) -> None:
        for state in ("ready", "draining"):
            self.endpoints.remove(*pool_labels(name), state)

    def scrape(
        self, totals: Counters, accept: str = "", decisions: Iterable[Decision] = ()
    ) -> Scrape:
        """Encode every series, with `totals` over all relays, as OpenMetrics when `accept` asks for it. The
        picks of `decisions` that have a trace are its exemplars.

        The series of a deleted pool are in one last scrape after its last request has ended, so that a
        rate over the deletion is complete.
        """
        encode, content_type = choose_encoder(accept)
        self._requests.totals = totals
        self._requests.known = self._known
        self._requests.exemplars = exemplars_of(decisions)
        body = encode(self.registry)
        # A worker may learn of the deletion later and count requests until then.
        gone = totals.pools.keys() - self._known
        forgotten = {name for name in gone if not totals.pools[name].in_flight}
        return Scrape(body, content_type, forgotten)
