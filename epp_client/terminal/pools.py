"""The table of pools that `status` and `top` share. Pure."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from rich.table import Table
from rich.text import Text

from epp_client.picker.health import USABLE
from epp_client.terminal.live import pool_name
from epp_client.terminal.text import COLOURS, clean, latency, main_reason, rate, share, total

WIDE: Final = 125
"""Columns of a terminal from which medians and reasons are shown."""
MIDDLE: Final = 108
"""The same of errors of endpoints, the whole time, and pickers."""
_COLUMNS: Final = (
    ("REQ/S", 0),
    ("STEERED", 0),
    ("OPEN", 0),
    ("REFUSED", 0),
    ("ERRORS", MIDDLE),
    ("PICK P50", WIDE),
    ("PICK P99", 0),
    ("TOTAL P50", WIDE),
    ("TOTAL P99", MIDDLE),
    ("IN FLIGHT", 0),
    ("READY", 0),
    ("PICKER", MIDDLE),
)
"""Numbers of a pool, and from which width on they are shown."""


class Extent(NamedTuple):
    """How much room there is."""

    width: int
    rows: int
    """Pools."""


def pools_table(
    rows: Sequence[dict[str, Any]],
    everything: dict[str, Any] | None,
    seconds: float,
    extent: Extent,
) -> Table:
    """A line for each pool, as many as there is room for. `everything` is a row of all pools together.
    `seconds`: what the numbers of a minute cover."""
    width = extent.width
    gap = 2 if width >= WIDE else 1
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column("STATE", no_wrap=True)
    table.add_column("POOL", no_wrap=True, overflow="ellipsis", min_width=12)
    for name, least in _COLUMNS:
        if width >= least:
            table.add_column(name, justify="right", no_wrap=True)
    if width >= WIDE:
        table.add_column("MAIN REASON", no_wrap=True, overflow="ellipsis")
    if everything is not None:
        cells = _fitting([*_numbers(everything, seconds), "", ""], width)
        table.add_row("", Text("all pools", style="bold"), *cells)
    for row in rows[: extent.rows]:
        level = str(row.get("level", ""))
        cells = _fitting([*_numbers(row, seconds), _ready(row, width), _picker(row)], width)
        if width >= WIDE:
            minute = row["minute"]
            cells.append(clean(main_reason(minute["refused"], minute["failedOpen"])))
        style = COLOURS.get(level, "")
        table.add_row(Text(level, style=style), Text(clean(pool_name(row))), *cells)
    return table


def _fitting(cells: Sequence[str | Text], width: int) -> list[str | Text]:
    """The cells of the columns that are shown."""
    return [cell for cell, (_, least) in zip(cells, _COLUMNS, strict=True) if width >= least]


def _numbers(row: dict[str, Any], seconds: float) -> list[str | Text]:
    minute = row["minute"]
    requests = minute["requests"]
    return [
        rate(requests, seconds),
        share(minute["steered"], requests),
        _bad(total(minute["failedOpen"]), requests, "yellow"),
        _bad(total(minute["refused"]), requests, "bold red"),
        _bad(total(minute["endpointFailures"]), requests, "bold red"),
        *(latency(minute[name]) for name in ("pickP50", "pickP99", "exchangeP50", "exchangeP99")),
        f"{row['inFlight']:,}",
    ]


def _bad(count: int, requests: int, style: str) -> Text:
    return Text(share(count, requests), style=style if count else "")


def _ready(row: dict[str, Any], width: int) -> Text:
    ready, draining = row["ready"], row["draining"]
    text = f"{ready:,}" + (f" +{draining:,} draining" if draining and width >= WIDE else "")
    return Text(text, style="" if ready else "bold red")


def _picker(row: dict[str, Any]) -> Text:
    picker = row["picker"]
    if picker is None:
        return Text("none")
    states = picker["health"]
    usable = sum(states.get(state, 0) for state in USABLE)
    every = picker["addresses"]
    if not every:
        return Text("no address", style="bold red")
    return Text(f"{usable}/{every} usable", style="" if usable == every else "yellow")
