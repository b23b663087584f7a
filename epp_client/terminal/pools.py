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
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    wide = extent.width >= WIDE
    table.add_column("STATE", no_wrap=True)
    table.add_column("POOL", no_wrap=True, overflow="ellipsis", min_width=12)
    numbers = ["REQ/S", "STEERED", "OPEN", "REFUSED", "ERRORS"]
    numbers += ["PICK P50", "P99", "TOTAL P50", "P99"] if wide else ["PICK P99", "TOTAL P99"]
    for name in (*numbers, "IN FLIGHT", "READY", "PICKER"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("MAIN REASON", no_wrap=True, overflow="ellipsis")
    if everything is not None:
        cells = ["", Text("all pools", style="bold"), *_numbers(everything, seconds, wide)]
        table.add_row(*cells, "", "", *([""] if wide else []))
    for row in rows[: extent.rows]:
        level = str(row.get("level", ""))
        cells = [
            Text(level, style=COLOURS.get(level, "")),
            Text(clean(pool_name(row))),
            *_numbers(row, seconds, wide),
            _ready(row),
            _picker(row),
        ]
        if wide:
            minute = row["minute"]
            cells.append(clean(main_reason(minute["refused"], minute["failedOpen"])))
        table.add_row(*cells)
    return table


def _numbers(row: dict[str, Any], seconds: float, wide: bool) -> list[str | Text]:
    minute = row["minute"]
    requests = minute["requests"]
    latencies = ["pickP50", "pickP99", "exchangeP50", "exchangeP99"]
    if not wide:
        latencies = ["pickP99", "exchangeP99"]
    return [
        rate(requests, seconds),
        share(minute["steered"], requests),
        _bad(total(minute["failedOpen"]), requests, "yellow"),
        _bad(total(minute["refused"]), requests, "bold red"),
        _bad(total(minute["endpointFailures"]), requests, "bold red"),
        *(latency(minute[name]) for name in latencies),
        f"{row['inFlight']:,}",
    ]


def _bad(count: int, requests: int, style: str) -> Text:
    return Text(share(count, requests), style=style if count else "")


def _ready(row: dict[str, Any]) -> Text:
    ready, draining = row["ready"], row["draining"]
    text = f"{ready:,}" + (f" +{draining:,} draining" if draining else "")
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
