"""Every metric of the sidecar, in a registry of its own. Names are `epp_client_*`; no policy here.

Label values are bounded: pools that exist plus `unknown`, and closed sets; the series of a deleted
pool go once they have been scraped. A request touches only children that were resolved once per pool.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import choose_encoder

from epp_client import __version__
from epp_client.errors import Reason
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.problems import Severity
from epp_client.pool.store import PoolStore
from epp_client.relay.outcome import Outcome

PICK_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class PoolMetrics:
    """The series of one pool, resolved."""

    def __init__(self, metrics: "Metrics", pool: str) -> None:
        self._metrics = metrics
        self._pool = pool
        self._outcomes = {o: metrics.requests.labels(pool, o) for o in Outcome}
        self.pick_seconds = metrics.pick_seconds.labels(pool)
        self.in_flight = metrics.in_flight.labels(pool)

    def outcome(self, outcome: Outcome) -> None:
        """Count a request that is over."""
        self._outcomes[outcome].inc()

    def failed_open(self, reason: Reason) -> None:
        """Count a request that was served without its picker."""
        self._metrics.fail_open.labels(self._pool, reason).inc()

    def refused(self, reason: Reason) -> None:
        """Count a request that we answered with an error."""
        self._metrics.refused.labels(self._pool, reason).inc()

    def response_passthrough(self, reason: Reason) -> None:
        """Count a response of which the picker did not have its say to the end."""
        self._metrics.passthrough.labels(self._pool, reason).inc()


class Metrics:
    """The registry of one process."""

    def __init__(self, transport: str) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "epp_client_requests", "Requests by outcome.", ["pool", "outcome"], registry=registry
        )
        self.pick_seconds = Histogram(
            "epp_client_pick_seconds",
            "Seconds from the end of a request to its pick.",
            ["pool"],
            buckets=PICK_BUCKETS,
            registry=registry,
        )
        self.fail_open = Counter(
            "epp_client_fail_open",
            "Requests served without their picker, by reason.",
            ["pool", "reason"],
            registry=registry,
        )
        self.refused = Counter(
            "epp_client_refused",
            "Requests answered with an error of ours, by reason.",
            ["pool", "reason"],
            registry=registry,
        )
        self.passthrough = Counter(
            "epp_client_response_passthrough",
            "Responses that went on without the picker, by reason.",
            ["pool", "reason"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "epp_client_in_flight", "Requests being relayed.", ["pool"], registry=registry
        )
        self.endpoints = Gauge(
            "epp_client_endpoints", "Endpoints by state.", ["pool", "state"], registry=registry
        )
        self.picker_addresses = Gauge(
            "epp_client_picker_addresses",
            "Ready addresses of the endpoint picker.",
            ["pool"],
            registry=registry,
        )
        self.retained = Gauge(
            "epp_client_retained_bytes", "Bytes of bodies kept for a replay.", registry=registry
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
        self._pools: dict[str, PoolMetrics] = {}
        self._deleted: set[str] = set()

    def pool(self, name: str) -> PoolMetrics:
        """The series of `name`: a known pool, or `unknown`."""
        found = self._pools.get(name)
        if found is None:
            found = self._pools[name] = PoolMetrics(self, name)
        return found

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

    def forget(self, name: str) -> None:
        """Remove every series of a pool."""
        self._pools.pop(name, None)
        self._deleted.discard(name)
        self._forget_gauges(name)
        self.pick_seconds.remove(name)
        self.in_flight.remove(name)
        for outcome in Outcome:
            self.requests.remove(name, outcome)
        for reason in Reason:
            self.fail_open.remove(name, reason)
            self.refused.remove(name, reason)
            self.passthrough.remove(name, reason)

    def exposition(self) -> bytes:
        """Every series now, in the plain text format."""
        return generate_latest(self.registry)

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """The answer to a scrape and its content type: OpenMetrics when `accept` asks for it.

        A deleted pool is in one last scrape after its last request has ended, so that a rate
        over the deletion loses nothing; then its series are gone.
        """
        encode, content_type = choose_encoder(accept)
        # Forgetting a pool with requests in flight would have them end in a series below zero.
        busy = {s.labels["pool"] for m in self.in_flight.collect() for s in m.samples if s.value}
        body = encode(self.registry)
        for name in self._deleted - busy:
            self.forget(name)
        return body, content_type
