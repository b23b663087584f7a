"""Metric families about the files of pools: when they were read, and whether the last reading succeeded."""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from epp_client.time_of_day import unix_time


class ReloadCollector(Collector):
    """Collects nothing until files have been read: a sidecar that follows an API server has none."""

    def __init__(self) -> None:
        self._ok: bool | None = None
        self._succeeded = 0.0

    def reloaded(self, ok: bool) -> None:
        """The files were read. `ok`: none of them has an error."""
        self._ok = ok
        if ok:
            self._succeeded = unix_time()

    def collect(self) -> Iterable[Metric]:
        """The families."""
        if self._ok is None:
            return
        yield GaugeMetricFamily(
            "epp_client_config_last_reload_successful",
            "Whether the files of pools had no error when they were read last.",
            value=self._ok,
        )
        yield GaugeMetricFamily(
            "epp_client_config_last_reload_success_timestamp_seconds",
            "When the files of pools were read last without an error, in seconds since 1970; 0: never.",
            value=self._succeeded,
        )
