"""Plots the delays of the sidecar, one row per kind of edit. The axis begins at zero."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

TITLES = {
    "acknowledgements": "from the write to Envoy's acknowledgement, ms",
    "routing": "from the write to the first request that shows it, ms",
}
TARGET_MS = 250
"""Target p99 in milliseconds."""


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write kubernetes.png and kubernetes.svg."""
    figure, panels = plt.subplots(1, 2, figsize=(13, 3.4), layout="constrained")
    for axes, (part, title) in zip(panels, TITLES.items(), strict=True):
        _rows(axes, {k: v for k, v in results[part].items() if isinstance(v, dict)}, title)
    machine = results["machine"]
    foot = (
        f"a pool of {results['pods']:,} Pods; bars p50, lines to p99; {machine['cpu']}, "
        f"{machine['cores']} cores for etcd, kube-apiserver, Envoy, sidecar and all peers"
    )
    figure.supxlabel(foot, fontsize=8, color="#666666", x=0.99, ha="right")
    figure.savefig(folder / "kubernetes.png", dpi=130)
    figure.savefig(folder / "kubernetes.svg", metadata={"Date": None})
    plt.close(figure)


def _rows(axes: Axes, rows: dict[str, Any], title: str) -> None:
    middle = [row["p50_ms"] for row in rows.values()]
    rest = [row["p99_ms"] - row["p50_ms"] for row in rows.values()]
    axes.barh(
        list(rows),
        middle,
        xerr=[[0.0] * len(rest), rest],
        color="#0b7a75",
        error_kw={"ecolor": "#222222", "elinewidth": 1, "capsize": 3},
    )
    for place, row in enumerate(rows.values()):
        axes.annotate(
            f"{row['p50_ms']:.0f}, p99 {row['p99_ms']:.0f}",
            (row["p99_ms"], place), xytext=(7, 0), textcoords="offset points", va="center",
        )  # fmt: skip
    axes.axvline(TARGET_MS, color="#d1495b", linewidth=1, linestyle=":")
    axes.set_xlim(0, max(TARGET_MS, *(row["p99_ms"] for row in rows.values())) * 1.25)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
