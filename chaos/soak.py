"""The soak: a steady load and gentle faults for hours, and what memory and descriptors do meanwhile."""

import asyncio
import csv
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from chaos.account import account
from chaos.flat import Trend, envelope, trend
from chaos.installation import Installation, NotBack
from chaos.load import BOUND
from chaos.looks import descriptors
from chaos.promise import PROMISES
from chaos.run import Part, Tell, Told, known_faults, one_fault, start_load
from chaos.source import SourceName
from epp_client.demo.process import ProcessFailed
from epp_client.settings import TransportName, UpstreamMode

GENTLE = {
    "picker restarted",
    "picker stopped",
    "picker's connections reset",
    "picker's connections drip",
    "endpoints churn",
    "manifests broken",
    "API server stopped",
    "API server killed",
    "API server killed, Pods changed",
    "API watches expired (410)",
    "API server slow",
    "API connections reset",
}
"""Faults that replace no process of the sidecar: its curves are of the same processes throughout."""
EVERY = (10.0, 30.0)
"""Seconds between two of them."""
LONGEST_WARM_UP = 300.0
WINDOW = 60.0
"""Seconds of which the least and the most memory are followed."""
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
        """What must be flat, and whether it is.

        Of memory both edges are: an allocator keeps what was freed at its end, up to twice the largest
        body, and gives it back at no certain moment; so one curve goes to and fro between two levels.
        """
        ends = [curve[-1][0] for curve in self.memory.values()]
        warm_up = min(LONGEST_WARM_UP, max(ends, default=0.0) / 4)
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
    """Looks at the processes that there are at its first look, once a second."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._began = time.monotonic()
        self.pids = {"control": installation.sidecar.pid} | {
            f"worker {n}": pid for n, pid in enumerate(sorted(installation.worker_pids))
        }
        self.curves = Curves(
            {name: [] for name in self.pids},
            {name: [] for name in self.pids},
            {name: [] for name in COUNTS},
        )

    async def sample(self) -> None:
        """One look at everything. Raises ProcessFailed when a process has gone."""
        now = time.monotonic() - self._began
        curves = self.curves
        for name, pid in self.pids.items():
            try:
                curves.memory[name].append((now, _resident(pid) / MEGABYTE))
                curves.descriptors[name].append((now, float(descriptors(pid))))
            except (FileNotFoundError, ProcessLookupError) as error:
                raise ProcessFailed(f"{name} died:\n{self._installation.sidecar.tail}") from error
        numbers = await self._installation.metrics()
        for name in COUNTS:
            if name in numbers:
                curves.counts[name].append((now, numbers[name]))

    async def run(self) -> None:
        """Sample for ever."""
        due = time.monotonic()
        while True:
            await self.sample()
            due = max(due + 1, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


async def soak(
    seconds: float,
    transport: TransportName,
    mode: UpstreamMode,
    source: SourceName,
    seed: int,
    *,
    rate: float,
    progress: Told,
    tell: Tell,
) -> tuple[Part, Curves]:
    """Run it; failures, such as a curve that is not flat, are in the part."""
    dice = random.Random(seed)
    part = Part(transport, mode, account([], [], {}), [], [])
    curves = Curves()
    with tempfile.TemporaryDirectory(prefix="epp-client-soak-") as folder:
        installation = Installation(
            Path(folder), transport, mode, source=source, seed=dice.getrandbits(32)
        )
        try:
            await installation.start()
            sampler = Sampler(installation)
            curves = sampler.curves
            load, lines = await start_load(
                installation, dice.getrandbits(32), rate=rate, faulty_share=0.1
            )
            sampling = asyncio.create_task(sampler.run())
            hurting = asyncio.create_task(_hurt_gently(installation, dice, part, tell))
            began = time.monotonic()
            try:
                while time.monotonic() < began + seconds:
                    done, _ = await asyncio.wait({sampling, hurting}, timeout=0.5)
                    for task in done:
                        task.result()
                    lines.read()
                    progress(time.monotonic() - began, lines.outcomes)
            finally:
                for task in (hurting, sampling):
                    task.cancel()
                await asyncio.gather(hurting, sampling, return_exceptions=True)
                if code := await load.stop(BOUND + 10):
                    part.failures.append(f"the client ended with {code}:\n{load.tail}")
                lines.read()
                lines.close()
                part.lines = lines.lines
            if left := await installation.settled():
                part.failures.append(f"after the last request there is still {left}")
            await sampler.sample()
        except (ProcessFailed, NotBack) as error:
            part.failures.append(str(error))
        finally:
            await installation.stop()
            part.log = installation.log.read_text(errors="replace")[-20_000:]
    part.account = account(part.lines, part.windows, PROMISES)
    part.failures += [f"a sidecar ended with {code}" for code in installation.exits if code]
    part.failures += [
        f"{name} is {found.says}" for name, found in curves.trends.items() if not found.flat
    ]
    return part, curves


async def _hurt_gently(
    installation: Installation, dice: random.Random, part: Part, tell: Tell
) -> None:
    faults = [
        fault
        for fault in known_faults()[0]
        if fault.name in GENTLE and fault.possible(installation)
    ]
    while True:
        await asyncio.sleep(dice.uniform(*EVERY))
        await one_fault(installation, dice.choice(faults), dice, part, tell)


def write_samples(path: Path, curves: Curves) -> None:
    """All samples as CSV: what, seconds, value."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("what", "seconds", "value"))
        kinds = (("memory MB", curves.memory), ("descriptors", curves.descriptors))
        for kind, named in (*kinds, ("metric", curves.counts)):
            for name, curve in named.items():
                out.writerows((f"{kind}, {name}", round(at, 2), value) for at, value in curve)
