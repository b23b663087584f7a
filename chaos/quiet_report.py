"""The report of a quiet run: a table for people, JSON for machines."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos.figures import table
from chaos.gateway import Gateway, Stack
from chaos.samples import Curves, write_samples

HEADINGS = (
    "sidecar", "Envoy", "asked", "answered", "refused", "lost", "longest", "dead", "ADS cut", "relay cut"
)  # fmt: skip


def _row(stack: Stack, one: Gateway) -> dict[str, Any]:
    outcomes = Counter(line["outcome"] for line in one.lines)
    took = [line["ended"] - line["began"] for line in one.lines if line["outcome"] == "answered"]
    return {
        "sidecar": stack.name,
        "Envoy": one.version + (", idle" if one.idle else ""),
        "asked": len(one.lines),
        "answered": outcomes["answered"],
        "refused": len(one.refused),
        "lost": len(one.lost),
        "longest": f"{max(took, default=0.0):.0f} s",
        "dead": sum(death.pid == one.envoy.process.pid for death in stack.deaths),
        "ADS cut": one.ads_cut,
        "relay cut": one.relay_cut,
    }


def _growth(stack: Stack) -> dict[str, dict[str, float]]:
    """The worst growth of any process of the sidecar, and of its Envoys."""
    curves = {"sidecar": [stack.curves], "Envoy": [one.sampler.curves for one in stack.gateways]}
    found: dict[str, dict[str, float]] = {}
    for who, drawn in curves.items():
        for what in ("memory", "descriptors"):
            trends = [
                trend for each in drawn for name, trend in each.trends.items() if what in name
            ]
            if trends:
                worst = max(trends, key=lambda trend: trend.growth - trend.allowed)
                found[f"{what} of {who}"] = {"growth": worst.growth, "allowed": worst.allowed}
    return found


def _all_curves(stacks: list[Stack]) -> Curves:
    """The curves of all processes, by their full names."""
    found = Curves()
    for stack in stacks:
        curves = {stack.name: stack.curves}
        for one in stack.gateways:
            curves[f"{stack.name}, {one.version}, idle {one.idle}"] = one.sampler.curves
        for who, drawn in curves.items():
            for mine, theirs in (
                (found.memory, drawn.memory),
                (found.descriptors, drawn.descriptors),
                (found.counts, drawn.counts),
            ):
                mine.update({f"{who}: {name}": curve for name, curve in theirs.items()})
    return found


def rows(stacks: list[Stack]) -> list[dict[str, Any]]:
    """A row for each Envoy."""
    return [_row(stack, one) for stack in stacks for one in stack.gateways]


def print_table(stacks: list[Stack], console: Console) -> None:
    """Print the table."""
    table = Table(title="Quiet gateways", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right")
    for row in rows(stacks):
        table.add_row(*(str(row[heading]) for heading in HEADINGS))
    console.print(table)


def write(folder: Path, stacks: list[Stack], settings: dict[str, Any]) -> None:
    """Write `quiet.md` and `quiet.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "settings": settings,
        "kept": all(stack.good for stack in stacks),
        "gateways": rows(stacks),
        "growth": {stack.name: _growth(stack) for stack in stacks},
        "failures": {stack.name: stack.failures for stack in stacks},
    }
    (folder / "quiet.json").write_text(json.dumps(values, indent=1))
    write_samples(folder / "quiet.csv", _all_curves(stacks))
    text = ["# Quiet", "", *(f"- {key}: {value}" for key, value in settings.items()), ""]
    text.append(table(HEADINGS, ([str(row[h]) for h in HEADINGS] for row in rows(stacks))))
    for stack in stacks:
        if stack.failures:
            text += [
                "",
                f"## {stack.name}",
                "",
                *stack.failures,
                "",
                "The end of its log:",
                "",
                stack.log,
            ]
    (folder / "quiet.md").write_text("\n".join(text) + "\n")
