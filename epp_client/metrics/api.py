"""What the API server has been asked, as metric families."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


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


class ApiCollector(Collector):
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
