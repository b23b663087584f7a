"""What `epp-client top` draws: one frame of the pools, or of one pool's endpoints. Pure."""

from datetime import tzinfo
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from epp_client.picker.health import USABLE
from epp_client.terminal.live import Live, by_traffic, pool_name
from epp_client.terminal.pools import Extent, pools_table
from epp_client.terminal.status import headline, minute_line, sidecar_line
from epp_client.terminal.text import clean, clock, latency, rate, share, span

_ABOVE = 8
"""Lines of a frame that are no pools: five at the top, the heads of the table, all pools, the last line."""
_ABOVE_ENDPOINTS = 9
"""The same of a pool's frame, without its pickers."""


class Shown(NamedTuple):
    """What a frame shows, beside the state."""

    where: str
    """The sidecar."""
    now: float
    """Unix time in seconds."""
    width: int
    height: int | None
    """Lines; None for as many as there are."""
    pool: str = ""
    """`namespace/name` of the pool whose endpoints are shown; empty for all pools."""
    trouble: str = ""
    """Why the state is old; empty if it is not."""
    keys: bool = True
    """Whether keys are read."""
    zone: tzinfo | None = None


def frame(live: Live, shown: Shown) -> RenderableType:
    """One frame."""
    title = f"epp-client top  {clean(shown.where)}  {clock(shown.now, shown.zone)}"
    parts: list[RenderableType] = [Text(title, style="dim", no_wrap=True)]
    if shown.trouble:
        parts.append(Text(clean(shown.trouble), style="bold yellow"))
    if not live.head:
        return Group(*parts, Text("waiting for the sidecar" if not shown.trouble else ""))
    head = live.head
    parts += [_cut(headline(head["judgement"])), _cut(Text(sidecar_line(head)))]
    parts += [_cut(Text(minute_line(head))), Text()]
    if shown.pool:
        parts += _pool(live, shown)
    else:
        parts += _pools(live, shown)
    if shown.keys:
        parts.append(Text("q quits", style="dim"))
    return Group(*parts)


def _cut(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _room(shown: Shown, above: int) -> int:
    above += bool(shown.trouble)
    return 10_000 if shown.height is None else max(1, shown.height - above - 1)


def _pools(live: Live, shown: Shown) -> list[RenderableType]:
    head, rows = live.head, by_traffic(live.rows)
    everything = {"minute": head["minute"], "inFlight": head["totals"]["inFlight"]}
    extent = Extent(shown.width, _room(shown, _ABOVE))
    parts: list[RenderableType] = [
        pools_table(rows, everything, head["minuteSeconds"], extent)
        if rows
        else Text("no pool matches" if head["pools"]["total"] else "no pools")
    ]
    if (more := head["pools"]["matching"] - min(len(rows), extent.rows)) > 0:
        parts.append(
            Text(f"and {more:,} more pools; --filter TEXT shows those with it in their names")
        )
    return parts


def _pool(live: Live, shown: Shown) -> list[RenderableType]:
    detail, seconds = live.detail, live.head["minuteSeconds"]
    if not detail:
        return [Text("waiting for the pool")]
    if detail.get("gone"):
        return [Text(f"no pool {clean(shown.pool)} is served", style="bold red")]
    rows = [row for row in live.rows if pool_name(row) == shown.pool]
    parts: list[RenderableType] = []
    if rows:
        parts += [pools_table(rows, None, seconds, Extent(shown.width, 1)), Text()]
        if problem := (rows[0]["picker"] or {}).get("problem"):
            parts.append(_cut(Text(f"picker: {clean(problem)}", style="bold red")))
    pickers = detail["pickers"]
    room = _room(shown, _ABOVE_ENDPOINTS + 3)
    listed = pickers[: max(3, room // 3)]
    parts += [_cut(_picker(one, shown)) for one in listed]
    if len(pickers) > len(listed):
        parts.append(Text(f"and {len(pickers) - len(listed)} more addresses of the picker"))
    endpoints = detail["endpoints"][: max(1, room - len(listed) - 2)]
    parts.append(_endpoints(endpoints, seconds, shown))
    if (more := detail["endpointsMatching"] - len(endpoints)) > 0:
        text = f"and {more:,} more endpoints; --filter TEXT shows those with it in their names"
        parts.append(Text(text))
    return parts


def _picker(one: dict[str, Any], shown: Shown) -> Text:
    state = str(one["state"]).replace("_", " ")
    usable = one["state"] in USABLE
    text = Text(f"picker {clean(one['address'])}  ").append(
        clean(state), style="green" if usable else "bold red"
    )
    if one["checkSeconds"] is not None:
        text.append(f"  check {latency(one['checkSeconds'])}")
    if one["error"]:
        at = f" at {clock(one['errorAt'], shown.zone)}" if one["errorAt"] else ""
        text.append(f"  last error{at}: {clean(one['error'])}", style="dim")
    return text


def _endpoints(endpoints: list[dict[str, Any]], seconds: float, shown: Shown) -> RenderableType:
    if not endpoints:
        return Text("no endpoint matches")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("ENDPOINT", no_wrap=True)
    table.add_column("POD", no_wrap=True, overflow="ellipsis")
    for name in ("STATE", "AGE", "PICKS/S", "SHARE", "SERVED/S", "FAILED", "UNREACHABLE"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in endpoints:
        minute = one["minute"]
        table.add_row(
            clean(one["endpoint"]),
            clean(one["pod"]),
            Text(clean(one["state"]), style="" if one["state"] == "ready" else "yellow"),
            span(shown.now - one["since"]) if one["since"] else "-",
            rate(minute["picked"], seconds),
            "-" if one["share"] is None else share(round(one["share"] * 10_000), 10_000),
            rate(minute["served"], seconds),
            _count(minute["failed"]),
            _count(minute["unreachable"]),
        )
    return table


def _count(number: int) -> Text:
    return Text(f"{number:,}", style="bold red" if number else "")
