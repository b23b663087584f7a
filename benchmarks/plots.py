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
    "native": "#0b7a75",
    "native-python": "#7fb8b2",
    "grpcio": "#d1495b",
    "before": "#edae49",
    "observe": "#4fb0a5",
    "skip": "#a7d8d1",
}
NAMES = {
    "direct": "no relay: Envoy asks the picker",
    "nghttpx": "nghttpx (C++, decides nothing)",
    "native": "epp-client",
    "native-python": "epp-client, not compiled",
    "grpcio": "epp-client on grpcio",
    "before": "another commit's epp-client",
    "observe": "epp-client, observe",
    "skip": "epp-client, skip",
}


def _bars(axes: Axes, rows: dict[str, Any], key: str, title: str, ways: tuple[str, ...]) -> None:
    """Medians, with a line from the minimum to the maximum of the rounds."""
    here = [way for way in ways if way in rows and rows[way][key]["max"]]
    middle = [rows[way][key]["median"] for way in here]
    errors = [
        [rows[way][key]["median"] - rows[way][key]["min"] for way in here],
        [rows[way][key]["max"] - rows[way][key]["median"] for way in here],
    ]
    axes.barh(
        [NAMES[way] for way in here],
        middle,
        xerr=errors,
        color=[COLOURS[way] for way in here],
        error_kw={"ecolor": "#222222", "elinewidth": 1, "capsize": 3},
    )
    longest = max(rows[way][key]["max"] for way in here)
    for place, way in enumerate(here):
        value, most = rows[way][key]["median"], rows[way][key]["max"]
        axes.annotate(
            f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
            (most, place), xytext=(7, 0), textcoords="offset points", va="center",
        )  # fmt: skip
    axes.set_xlim(0, longest * 1.15)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def draw(results: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write PNG and SVG beside the tables."""
    relays = ("nghttpx", "native", "native-python", "grpcio")
    foot = (
        f"{results['machine']['cpu']}, {results['machine']['cores']} cores; median of "
        f"{results['rounds']} rounds, lines from the least to the most"
    )
    if requests := results.get("requests"):
        connections = min(requests, key=int)
        rows = requests[connections]
        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 3.4), layout="constrained")
        title = f"CPU of the relay process, µs per request ({connections} connections)"
        _bars(left, rows, "cpu", title, relays)
        _bars(right, rows, "rate", "requests per second through one Envoy", tuple(COLOURS))
        _save(figure, folder, "headline", foot)
    for part, unit, title in (
        ("streams", "streams", "CPU of the relay process, µs per streamed chunk"),
        ("prompts", "bytes of prompt", "CPU of the relay process, µs per request"),
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
