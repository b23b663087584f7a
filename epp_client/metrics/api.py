"""Metric families about the use of the Kubernetes API."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ApiSource(Protocol):
    """The numbers of a source that follows an API server."""

    def stale(self) -> float:
        """Seconds since some resource could not be followed; 0 when all are."""

    def asked(self) -> Mapping[str, int]:
        """Number of calls by verb: `list`, `watch`."""

    def faults(self) -> Mapping[str, int]:
        """Number of failed calls by fault."""

    def events(self) -> int:
        """Number of watch events."""

    def status_writes(self) -> Mapping[str, int] | None:
        """Number of status writes by result; None when status is not reported."""

    def status_leader(self) -> bool:
        """Whether this replica is the one that writes status."""


class ApiCollector(Collector):
    """Collects the numbers of one `ApiSource`."""

    def __init__(self, source: ApiSource) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        stale = GaugeMetricFamily(
            "epp_client_api_stale_seconds",
            "Seconds since some resource of the Kubernetes API could not be followed; 0 when all are.",
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
            "Writes of a status, by result.",
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
