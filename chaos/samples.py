"""Samples memory and descriptors of processes as curves, and judges whether they are flat."""

import asyncio
import csv
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chaos.flat import Trend, envelope, trend
from testbed.looks import descriptors
from testbed.process import ProcessFailed

MAX_WARM_UP = 300.0
WINDOW = 60.0
"""Seconds over which the minimum and maximum of memory are taken."""
MEGABYTE = 1e6
COUNTS = ("epp_client_in_flight", "epp_client_retained_bytes")


@dataclass
class Curves:
    """Samples by process (`control`, `worker 0`…) and by metric: (seconds, value)."""

    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Resident megabytes."""
    descriptors: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    counts: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def trends(self) -> dict[str, Trend]:
        """The trends of everything that must be flat.
        For memory these are the minimum and the maximum per window: an allocator keeps freed memory at its
        end, up to twice the largest body, for a varying time, so a curve alternates between two levels.
        """
        ends = [curve[-1][0] for curve in self.memory.values()]
        warm_up = min(MAX_WARM_UP, max(ends, default=0.0) / 4)
        window = min(WINDOW, max(ends, default=1.0) / 20)
        return {
            **{
                f"memory of {name}, MB, {word} in {window:.0f} s": trend(
                    envelope(curve, window, edge), warm_up=warm_up, share=0.03, least=3.0
                )
                for name, curve in self.memory.items()
                for word, edge in (("least", min), ("most", max))
            },
            **{
                f"descriptors of {name}": trend(curve, warm_up=warm_up, share=0.0, least=3.0)
                for name, curve in self.descriptors.items()
            },
        }


class Sampler:
    """Samples processes, and the `metrics` of a sidecar, every `interval` seconds."""

    def __init__(
        self,
        pids: Mapping[str, int],
        metrics: Callable[[], Awaitable[dict[str, float]]] | None = None,
        interval: float = 1.0,
    ) -> None:
        self._metrics = metrics
        self._interval = interval
        self._began = time.monotonic()
        self.pids = pids
        self.curves = Curves(
            {name: [] for name in self.pids},
            {name: [] for name in self.pids},
            {name: [] for name in COUNTS},
        )

    async def sample(self) -> None:
        """Take one sample of everything. Raises ProcessFailed if a process has ended."""
        now = time.monotonic() - self._began
        curves = self.curves
        for name, pid in self.pids.items():
            try:
                curves.memory[name].append((now, _resident(pid) / MEGABYTE))
                curves.descriptors[name].append((now, float(descriptors(pid))))
            except (FileNotFoundError, ProcessLookupError) as error:
                raise ProcessFailed(f"{name} (pid {pid}) has ended") from error
        numbers = await self._metrics() if self._metrics is not None else {}
        for name in COUNTS:
            if name in numbers:
                curves.counts[name].append((now, numbers[name]))

    async def run(self) -> None:
        """Sample until cancelled."""
        due = time.monotonic()
        while True:
            await self.sample()
            due = max(due + self._interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def write_samples(path: Path, curves: Curves) -> None:
    """Write all samples as CSV: what, seconds, value."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("what", "seconds", "value"))
        kinds = (("memory MB", curves.memory), ("descriptors", curves.descriptors))
        for kind, named in (*kinds, ("metric", curves.counts)):
            for name, curve in named.items():
                out.writerows((f"{kind}, {name}", round(at, 2), value) for at, value in curve)
