"""The report of a run: tables for people, JSON for machines."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos.account import Account, Breach, Row, add
from chaos.promise import PROMISES
from chaos.run import Part

_HEADINGS = ("fault", "times", "sent", "answered", "refused", "lost as stated", "lost in breach")


def _cells(row: Row, promise: str = "") -> tuple[str, ...]:
    refused = ", ".join(f"{count} {reason}" for reason, count in row.refused.most_common())
    cells = (
        row.fault, str(row.windows or ""), str(row.sent), str(row.answered), refused or "0",
        str(row.lost), str(row.breaches),
    )  # fmt: skip
    return (*cells, promise) if promise else cells


def tables(parts: list[Part]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """(title, headings, rows): by fault, by the pickers' dialects, by part."""
    whole = add(part.account for part in parts)
    faults = [_cells(row, PROMISES[name].costs) for name, row in sorted(whole.faults.items())]
    dialects = [_cells(row) for _, row in sorted(whole.dialects.items())]
    summary = [_cells(_named(part.account.total, part.name)) for part in parts]
    return [
        ("Faults (a request counts for each that it overlapped)", (*_HEADINGS, "may cost"), faults),
        ("What the picker said (a share of the requests, all the time)", _HEADINGS, dialects),
        ("All requests", ("part", *_HEADINGS[1:]), [*summary, _cells(_named(whole.total, "all"))]),
    ]


def _named(row: Row, name: str) -> Row:
    values = {**vars(row), "fault": name}
    return Row(**values)


def good(parts: list[Part]) -> bool:
    """Whether the promise was kept."""
    return bool(parts) and not any(part.failures or part.account.breaches for part in parts)


def print_tables(parts: list[Part], console: Console) -> None:
    """Print the tables."""
    for title, headings, rows in tables(parts):
        table = Table(title=title, title_justify="left")
        for heading in headings:
            number = heading in ("times", "sent", "answered", "lost as stated", "lost in breach")
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def describe(part: Part, breach: Breach) -> str:
    """One breach with the faults that it overlapped."""
    line = breach.line
    begins = min([line.began, *(window.began for window in breach.windows)])
    events = [
        f"    {window.began - begins:7.3f} – {window.ended - begins:7.3f} s  {window.fault}"
        f" {'; '.join(window.notes)}"
        f" cuts {[f'{cut - begins:.3f} to {gone - begins:.3f}' for cut, gone in window.cuts]}"
        for window in breach.windows
    ]
    first = "none" if line.first is None else f"{line.first - begins:.3f} s"
    return "\n".join(
        [
            f"{part.name}: request {line.number}, {line.kind} to {line.pool}, seed {line.seed}"
            + (f", dialect {line.dialect}" if line.dialect else ""),
            f"    {breach.why}",
            f"    {line.began - begins:7.3f} – {line.ended - begins:7.3f} s  the request; first byte"
            f" {first}; status {line.status}; by {line.server or 'nobody'}",
            *events,
        ]
    )


def write(
    folder: Path, parts: list[Part], settings: dict[str, Any], name: str, **more: Any
) -> None:
    """Write `name`.md and `name`.json into `folder`; `more` goes into the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [
        f"# {name.capitalize()}",
        "",
        *(f"- {key}: {value}" for key, value in settings.items()),
        "",
    ]
    text.append("**The promise was kept.**" if good(parts) else "**The promise was broken.**")
    for title, headings, rows in tables(parts):
        text += ["", f"## {title}", "", _line(headings), _line("---" for _ in headings)]
        text += [_line(row) for row in rows]
    for part in parts:
        if part.failures or part.account.breaches:
            text += ["", f"## Breaches of {part.name}", ""]
            text += [*part.failures, *(describe(part, b) for b in part.account.breaches)]
            text += ["", "The end of the sidecar's log:", "", part.log]
    (folder / f"{name}.md").write_text("\n".join(text) + "\n")
    values = {
        "settings": settings,
        "kept": good(parts),
        **more,
        "all": _json(add(part.account for part in parts)),
        "parts": {part.name: _part(part) for part in parts},
    }
    (folder / f"{name}.json").write_text(json.dumps(values, indent=1))


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _part(part: Part) -> dict[str, Any]:
    return {
        **_json(part.account),
        "failures": part.failures,
        "windows": [vars(window) for window in part.windows],
        "breaches": [describe(part, breach) for breach in part.account.breaches],
        "lost": [asdict(line) for line in part.lines if line.outcome == "lost"],
        "requests_by_kind": Counter(line.kind for line in part.lines),
        "seconds": _latencies(part),
    }


def _latencies(part: Part) -> dict[str, float]:
    took = sorted(line.ended - line.began for line in part.lines if line.kind != "stream")
    if not took:
        return {}
    return {
        name: round(took[min(len(took) - 1, int(len(took) * share))], 4)
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("longest", 1.0))
    }


def _json(found: Account) -> dict[str, Any]:
    return {
        "total": vars(found.total),
        "faults": {name: vars(row) for name, row in found.faults.items()},
        "dialects": {name: vars(row) for name, row in found.dialects.items()},
    }
