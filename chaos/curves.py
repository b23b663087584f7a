"""Plots the curves of a soak."""

from pathlib import Path

import matplotlib

from chaos.samples import Curves

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLOURS = ("#0b7a75", "#d1495b", "#edae49", "#5f6b7a", "#4fb0a5")


def draw(folder: Path, curves: Curves, title: str) -> None:
    """Write `soak.png` and `soak.svg`."""
    figure, rows = plt.subplots(3, 1, figsize=(9, 8), sharex=True, layout="constrained")
    _lines(rows[0], curves.memory, "resident memory, MB")
    _lines(rows[1], curves.descriptors, "open descriptors")
    rows[1].legend(frameon=False, ncols=4, loc="lower left")
    counts = curves.counts["epp_client_in_flight"] if curves.counts else []
    _lines(rows[2], {"requests in flight": counts}, "requests in flight, after the last one: 0")
    rows[2].set_xlabel("minutes")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(folder / "soak.png", dpi=130)
    figure.savefig(folder / "soak.svg", metadata={"Date": None})
    plt.close(figure)


def _lines(axes: Axes, curves: dict[str, list[tuple[float, float]]], title: str) -> None:
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        x = [at / 60 for at, _ in curve]
        axes.plot(x, [value for _, value in curve], label=name, color=colour, linewidth=1)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
