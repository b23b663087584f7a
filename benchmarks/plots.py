"""Plots of the CPU time per request and chunk, and of request times. Axes begin at zero."""

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.report import RESULTS

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "direct": "#9aa0a6",
    "nghttpx": "#5f6b7a",
    "grpc-go": "#7b9e3f",
    "grpc-go-typed": "#b9cc8e",
    "tonic": "#b5651d",
    "native": "#0b7a75",
    "native-python": "#7fb8b2",
    "grpcio": "#d1495b",
    "before": "#edae49",
    "observe": "#4fb0a5",
    "skip": "#a7d8d1",
    "headers-skip": "#c9b7e0",
    "headers-none": "#8a6fb8",
}
NAMES = {
    "direct": "no relay: Envoy asks the picker",
    "nghttpx": "nghttpx (C++, decides nothing)",
    "grpc-go": "grpc-go, decides nothing",
    "grpc-go-typed": "grpc-go, typed messages",
    "tonic": "tonic (Rust), decides nothing",
    "native": "epp-client",
    "native-python": "epp-client, not compiled",
    "grpcio": "epp-client on grpcio",
    "before": "another commit's epp-client",
    "observe": "epp-client, observe",
    "skip": "epp-client, skip",
    "headers-skip": "epp-client, headers and skip",
    "headers-none": "epp-client, headers and none",
}
_HEADLINE = {
    "cpu": "CPU of the relay, µs per request",
    "path": "of the relay and Envoy, µs per request",
    "rate": "requests per second through one Envoy",
}


def _bars(axes: Axes, rows: dict[str, Any], key: str, title: str, ways: tuple[str, ...]) -> None:
    """Medians, with a line from the minimum to the maximum of the rounds."""
    here = [way for way in ways if way in rows]
    longest = _axis([rows[way][key]["max"] for way in here])
    for place, way in enumerate(here):
        low, value, most = (rows[way][key][name] for name in ("min", "median", "max"))
        cut = most > longest
        axes.barh(
            place,
            longest if cut else value,
            xerr=None if cut else [[value - low], [most - value]],
            color=COLOURS[way],
            error_kw={"ecolor": "#222222", "elinewidth": 1, "capsize": 3},
        )
        axes.annotate(
            f"{_figure(value)}{' (cut)' if cut else ''}",
            (longest if cut else most, place),
            xytext=(7, 0), textcoords="offset points", va="center",
        )  # fmt: skip
    axes.set_yticks(range(len(here)), [NAMES[way] for way in here])
    axes.set_xlim(0, longest * 1.15)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value else "none"


def _axis(values: list[float]) -> float:
    """Where the longest bar ends. One that would make the others unreadable is cut there."""
    *others, longest = sorted(values)
    return 1.3 * others[-1] if others and longest > 3 * others[-1] > 0 else longest


def draw(results: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write PNG and SVG beside the tables."""
    relays = ("nghttpx", "grpc-go", "tonic", "native", "native-python", "grpcio")
    foot = (
        f"{results['machine']['cpu']}, {results['machine']['cores']} cores; median of "
        f"{results['rounds']} rounds, lines from the least to the most"
    )
    if requests := results.get("requests"):
        connections = min(requests, key=int)
        rows = requests[connections]
        height = 0.9 + 0.29 * len(rows)
        figure, panels = plt.subplots(1, 3, figsize=(14, height), layout="constrained")
        for axes, (key, title) in zip(panels, _HEADLINE.items(), strict=True):
            _bars(axes, rows, key, title, tuple(COLOURS))
            if axes is not panels[0]:
                axes.set_yticks([])
        title = f"POSTs over {connections} connections"
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        _save(figure, folder, "headline", foot)
    for part, unit, title in (
        ("streams", "streams", "CPU of the relay, µs per streamed chunk"),
        ("prompts", "bytes of prompt", "CPU of the relay, µs per request"),
    ):
        if found := results.get(part):
            figure, panels = plt.subplots(
                1, len(found), figsize=(4.3 * len(found), 2.8), layout="constrained", squeeze=False
            )
            for axes, (number, rows) in zip(panels[0], found.items(), strict=True):
                _bars(axes, rows, "cpu", f"{int(number):,} {unit}", relays)
                if axes is not panels[0][0]:
                    axes.set_yticks([])
            figure.suptitle(title, x=0.01, ha="left", fontsize=12)
            _save(figure, folder, part, foot)
    for endpoints, states in list(results.get("churn", {}).items())[:1]:
        figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
        width = 0.38
        for shift, state in ((-width / 2, "quiet"), (width / 2, "churn")):
            rows = [states[state][p] for p in ("p50", "p90", "p99")]
            axes.bar(
                [place + shift for place in range(3)],
                [row["median"] / 1000 for row in rows],
                width,
                yerr=[
                    [(row["median"] - row["min"]) / 1000 for row in rows],
                    [(row["max"] - row["median"]) / 1000 for row in rows],
                ],
                label="at rest" if state == "quiet" else "100 changes a second",
                color=COLOURS["nghttpx" if state == "quiet" else "native"],
                error_kw={"ecolor": "#222222", "elinewidth": 1, "capsize": 3},
            )
        axes.set_xticks(range(3), ["p50", "p90", "p99"])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("ms")
        title = f"A request's time in a pool of {int(endpoints):,} endpoints"
        axes.set_title(title, loc="left", fontsize=11)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        _save(figure, folder, "churn", foot)


def _save(figure: Figure, folder: Path, name: str, foot: str) -> None:
    figure.supxlabel(foot, fontsize=8, color="#666666", x=0.99, ha="right")
    figure.savefig(folder / f"{name}.png", dpi=130)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
