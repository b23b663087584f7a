"""Metric families about the processes of the sidecar: the control process and its relay workers together.

The names are those that every Prometheus client library has for its own process.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from epp_client.time_of_day import unix_time

_PROC = Path("/proc")
_TOGETHER = "of the control process and its relay workers together"


class _Stat(NamedTuple):
    """A process in /proc/PID/stat. Times are in clock ticks."""

    cpu: int
    """With that of the children that have ended, so that the sum never falls when a worker exits."""
    started: int
    virtual: int
    """Bytes."""
    resident: int
    """Pages."""


class ProcessCollector(Collector):
    """Reads /proc at each scrape. Collects nothing where there is no /proc."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._tick = os.sysconf("SC_CLK_TCK")
        self._page = os.sysconf("SC_PAGE_SIZE")

    def collect(self) -> Iterable[Metric]:
        """The families."""
        own = os.getpid()
        found = {pid: stat for pid in (own, *self._children()) if (stat := self._stat(pid))}
        if own not in found:
            return
        yield CounterMetricFamily(
            "process_cpu_seconds",
            f"CPU time in seconds {_TOGETHER}, exited ones included.",
            value=sum(stat.cpu for stat in found.values()) / self._tick,
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            f"Resident memory {_TOGETHER}. Pages that they share count for each.",
            value=sum(stat.resident for stat in found.values()) * self._page,
        )
        yield GaugeMetricFamily(
            "process_virtual_memory_bytes",
            f"Virtual memory {_TOGETHER}.",
            value=sum(stat.virtual for stat in found.values()),
        )
        yield GaugeMetricFamily(
            "process_open_fds",
            f"Open file descriptors {_TOGETHER}.",
            value=sum(map(self._descriptors, found)),
        )
        if (most := self._most_descriptors(own)) is not None:
            yield GaugeMetricFamily(
                "process_max_fds", "Open file descriptors that one process may have.", value=most
            )
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "When the control process started, in seconds since 1970.",
            value=unix_time() - self._uptime() + found[own].started / self._tick,
        )

    def _children(self) -> Iterator[int]:
        for path in (self._proc / "self" / "task").glob("*/children"):
            try:
                yield from map(int, path.read_text().split())
            except OSError:
                # The thread has ended.
                continue

    def _stat(self, pid: int) -> _Stat | None:
        try:
            text = (self._proc / str(pid) / "stat").read_text()
        except OSError:
            return None
        # The name in parentheses may have spaces.
        fields = text.rpartition(")")[2].split()
        return _Stat(
            sum(map(int, fields[11:15])), int(fields[19]), int(fields[20]), int(fields[21])
        )

    def _descriptors(self, pid: int) -> int:
        try:
            return len(os.listdir(self._proc / str(pid) / "fd"))
        except OSError:
            return 0

    def _most_descriptors(self, pid: int) -> int | None:
        for line in (self._proc / str(pid) / "limits").read_text().splitlines():
            if line.startswith("Max open files"):
                limit = line.split()[3]
                return int(limit) if limit.isdigit() else None
        return None

    def _uptime(self) -> float:
        return float((self._proc / "uptime").read_text().split()[0])
