"""`make bench`: measures everything in one run; results go to `benchmarks/results/`."""

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import measure, tools
from benchmarks.churn import churn
from benchmarks.plots import draw
from benchmarks.processes import SOURCES
from benchmarks.report import RESULTS, machine, python_build, versions, write
from benchmarks.rig import SIDECARS, running_rig, start_to_ready
from epp_client.wire.http2 import frames

Ratio = tuple[str, tuple[str, str, str]]
"""Its name, the figure, and the two ways."""
REQUESTS: tuple[Ratio, ...] = (
    ("cpu_per_request_vs_nghttpx", ("cpu", "native", "nghttpx")),
    ("cpu_per_request_vs_tonic", ("cpu", "native", "tonic")),
    ("cpu_per_request_vs_grpc_go", ("cpu", "native", "grpc-go")),
    ("cpu_per_request_vs_before", ("cpu", "native", "before")),
    ("cpu_per_request_vs_grpcio", ("cpu", "native", "grpcio")),
    ("path_cpu_vs_direct", ("path", "native", "direct")),
    ("path_cpu_vs_nghttpx", ("path", "native", "nghttpx")),
    ("path_cpu_vs_tonic", ("path", "native", "tonic")),
    ("path_cpu_vs_grpc_go", ("path", "native", "grpc-go")),
    ("path_cpu_vs_before", ("path", "native", "before")),
    ("path_cpu_headers_skip_vs_before", ("path", "headers-skip", "before")),
    ("path_cpu_headers_none_vs_before", ("path", "headers-none", "before")),
    ("throughput_vs_direct", ("rate", "native", "direct")),
    ("throughput_observe_vs_direct", ("rate", "observe", "direct")),
    ("throughput_nghttpx_vs_direct", ("rate", "nghttpx", "direct")),
    ("throughput_tonic_vs_direct", ("rate", "tonic", "direct")),
    ("python_cpu_per_request_vs_nghttpx", ("cpu", "native-python", "nghttpx")),
)
STREAMS: tuple[Ratio, ...] = (
    ("cpu_per_chunk_vs_nghttpx", ("cpu", "native", "nghttpx")),
    ("cpu_per_chunk_vs_tonic", ("cpu", "native", "tonic")),
    ("cpu_per_chunk_vs_grpc_go", ("cpu", "native", "grpc-go")),
    ("cpu_per_chunk_vs_before", ("cpu", "native", "before")),
    ("cpu_per_chunk_vs_grpcio", ("cpu", "native", "grpcio")),
)
PARTS = ("requests", "streams", "prompts", "churn", "memory", "start", "tools")
console = Console(width=140, soft_wrap=True)


@dataclass(frozen=True)
class Plan:
    """The extent of each part."""

    rounds: int
    seconds: float
    connections: tuple[int, ...] = (16, 64)
    streams: tuple[int, ...] = (8, 64, 512)
    sizes: tuple[int, ...] = (1_000, 32_000, 220_000, 5_000_000)
    endpoints: tuple[int, ...] = (10_000, 1_000)
    starts: int = 5


QUICK = Plan(1, 1.0, (16,), (8, 64), (1_000, 220_000), (10_000,), 1)


@dataclass
class Results:
    """The results of a run."""

    values: dict[str, Any]
    ratios: dict[str, float] = field(default_factory=dict)
    spread: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, name: str, values: Sequence[float]) -> None:
        """Add a ratio: the median of its rounds, with minimum and maximum."""
        if values:
            self.ratios[name] = median(values)
            self.spread[name] = [min(values), max(values)]


async def run(
    parts: Sequence[str], plan: Plan, progress: measure.Say, before: Path | None = None
) -> dict[str, Any]:
    """Measure; returns the values of results.json."""
    compiled = not frames.__file__.endswith(".py")
    values: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "native_is": "compiled with mypyc" if compiled else "plain Python: no C compiler",
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "skipped": {} if compiled else {"compilation": "no C compiler (cc)"},
        "failures": [],
        "memory": {},
    }
    results = Results(values)
    progress("starting Envoy and its peers")
    async with running_rig(before=before) as rig:
        values["skipped"] |= rig.skipped
        values["memory"] |= {f"idle_{way}": rig.memory(way) for way in SIDECARS}
        bench = measure.Bench(rig, progress, plan.rounds, plan.seconds)
        await _side_by_side(bench, parts, plan, results)
        if "memory" in parts:
            values["memory"] |= await bench.memory()
            results.ratios["worker_mb_idle"] = values["memory"]["idle_native"]
            results.ratios["worker_mb_1000_streams"] = values["memory"]["streams_1000"]
        if "tools" in parts:
            await tools.vegeta(rig, progress, values)
            await tools.locust(rig, progress, values)
        if "start" in parts:
            progress("from start to serving")
            values["start_to_ready"] = {
                way: [await start_to_ready(rig, way) for _ in range(plan.starts)]
                for way in SIDECARS
            }
        values["failures"] += bench.failures
    if "churn" in parts:
        for endpoints in plan.endpoints:
            progress(f"starting a pool of {endpoints} endpoints")
            async with running_rig(churning=endpoints) as rig:
                bench = measure.Bench(rig, progress, plan.rounds, plan.seconds)
                runs, lags = await churn(bench, endpoints)
                values.setdefault("churn", {})[str(endpoints)] = measure.summary(runs)
                values.setdefault("churn_lag_ms", {})[str(endpoints)] = lags
                values["failures"] += bench.failures
            if endpoints == plan.endpoints[0]:
                results.ratio("p99_churn_vs_quiet", measure.ratios(runs, "p99", "churn", "quiet"))
                results.ratio("p99_wanted_vs_quiet", measure.ratios(runs, "p99", "wanted", "quiet"))
    return values | {"ratios": results.ratios, "spread": results.spread}


async def _side_by_side(
    bench: measure.Bench, parts: Sequence[str], plan: Plan, results: Results
) -> None:
    values = results.values
    if "requests" in parts:
        found = await bench.requests(plan.connections)
        _ratios(results, REQUESTS, found)
        values["requests"] = {str(n): measure.summary(runs) for n, runs in found.items()}
        values["busy"] = {str(n): measure.busy(runs) for n, runs in found.items()}
    if "streams" in parts:
        found = await bench.streams(plan.streams)
        _ratios(results, STREAMS, found)
        for number, runs in found.items():
            tail = "" if number == plan.streams[0] else f"_{number}"
            slower = measure.differences(runs, "delay_p50", "native", "nghttpx", 1e-3)
            results.ratio(f"chunk_delay_over_nghttpx_ms{tail}", slower)
        values["streams"] = {str(n): measure.summary(runs) for n, runs in found.items()}
    if "prompts" in parts:
        found = await bench.prompts(plan.sizes)
        values["prompts"] = {str(n): measure.summary(runs) for n, runs in found.items()}


def _ratios(results: Results, wanted: Iterable[Ratio], found: dict[int, measure.Runs]) -> None:
    """Add ratios for each load. All but the first have their load at the end of the name."""
    first = next(iter(found))
    for number, runs in found.items():
        for name, (key, of, to) in wanted:
            tail = "" if number == first else f"_{number}"
            results.ratio(f"{name}{tail}", measure.ratios(runs, key, of, to))


def main(
    parts: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(PARTS),
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of each part.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of load, for each way in a round.")] = 2.0,
    quick: Annotated[
        bool, typer.Option(help="A short run of two minutes, to see that it works.")
    ] = False,
    before: Annotated[
        Path | None,
        typer.Option(
            help="Another checkout in which `make compiled` has run, measured as one more way."
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Directory. Default: benchmarks/results, with --quick build/bench."),
    ] = None,
) -> None:
    """Measure the sidecar side by side with what it replaces."""
    plan = QUICK if quick else Plan(rounds, seconds)
    folder = results or (SOURCES / "build/bench" if quick or before else RESULTS)
    began = time.monotonic()

    def progress(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:4.0f} s[/]  {what}", highlight=False)

    progress(f"Python {sys.version.split()[0]}, {python_build()}")
    values = asyncio.run(run(parts.split(","), plan, progress, before and before.resolve()))
    write(values, folder)
    draw(values, folder)
    for name, why in values["skipped"].items():
        console.print(f"[yellow]SKIPPED {name}: {why}")
    for failure in values["failures"]:
        console.print(f"[red]FAILED and measured again: {failure}")
    for name, value in values["ratios"].items():
        low, high = values["spread"].get(name, (value, value))
        console.print(f"  {name:40} {value:7.3g}   ({low:.3g} to {high:.3g})", highlight=False)
    progress(f"written to {folder}")


if __name__ == "__main__":
    typer.run(main)
