"""What `epp-client status` prints of the admin page's `/summary`. Pure."""

from collections.abc import Iterator
from datetime import tzinfo
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from epp_client.errors import AdminUnreachable
from epp_client.terminal.pools import Extent, pools_table
from epp_client.terminal.text import COLOURS, clean, clock, latency, rate, share, some, span, total

POOLS: Final = 15
"""Pools in the table."""
FINDINGS: Final = 5
"""Findings that are shown."""
EXIT_CODES: Final = {"ok": 0, "degraded": 1, "failing": 2}
"""Exit code of each level."""


def exit_code(said: dict[str, Any]) -> int:
    """The exit code of a status.

    Raises:
        AdminUnreachable: it has no judgement of a known level.
    """
    level = said.get("judgement", {}).get("level")
    if level not in EXIT_CODES:
        raise AdminUnreachable(
            "the admin page has no judgement: the sidecar is older than this epp-client. Upgrade it,"
            " or read its /readyz and /pools"
        )
    return EXIT_CODES[level]


def screen(
    said: dict[str, Any], where: str, width: int, zone: tzinfo | None = None
) -> RenderableType:
    """One screen. `where` names the sidecar. `zone`: None for this machine's."""
    judgement, pools = said["judgement"], said["pools"]
    parts: list[RenderableType] = [headline(judgement)]
    parts += findings(judgement, said["at"], zone)
    parts += [Text(), Text(sidecar_line(said)), Text(minute_line(said))]
    parts += [Text(f"note: {clean(name)}: {clean(text)}") for name, text in said["notes"].items()]
    problems = said["problems"]
    if problems["errors"] or problems["warnings"]:
        text = (
            f"objects: {some(problems['errors'], 'error')}, {some(problems['warnings'], 'warning')}"
        )
        text += " (/pools has all)"
        parts.append(Text(text, style="yellow" if problems["errors"] else ""))
    parts.append(Text())
    if pools["rows"]:
        parts.append(pools_table(pools["rows"], None, said["minuteSeconds"], Extent(width, POOLS)))
    else:
        parts.append(Text("no pools"))
    if (more := pools["matching"] - len(pools["rows"])) > 0:
        parts.append(Text(f"and {more:,} more pools: epp-client top, or the page at {where}"))
    parts += advice(pools["rows"])
    parts.append(Text(f"\n{clean(where)} at {clock(said['at'], zone)}", style="dim"))
    return Group(*parts)


def advice(rows: list[dict[str, Any]]) -> Iterator[Text]:
    """Modes of pools that would save messages."""
    said = [
        (f"{row['namespace']}/{row['name']}", text)
        for row in rows
        for text in row.get("advice", ())
    ]
    for pool, text in said[:FINDINGS]:
        yield Text(f"\nhint: {clean(pool)}: {clean(text)}", style="dim")


def headline(judgement: dict[str, Any]) -> Text:
    """The level as a word, and the sentence."""
    level = str(judgement["level"])
    text = Text().append(clean(level.upper()), style=COLOURS.get(level, ""))
    return text.append(f"  {clean(judgement['headline'])}", style="bold")


def findings(
    judgement: dict[str, Any], now: float, zone: tzinfo | None = None, most: int = FINDINGS
) -> Iterator[Text]:
    """What is wrong, since when, and what to do; two lines each."""
    found = judgement["findings"]
    for one in found[:most]:
        line = Text().append("• ", style=COLOURS.get(str(one["level"]), ""))
        if one["subject"]:
            line.append(f"{clean(one['subject'])}: ", style="bold")
        yield line.append(clean(one["text"]))
        since = f"since {clock(one['since'], zone)} ({span(now - one['since'])})"
        yield Text(f"  {since}. {clean(one['action'])} {clean(one['runbook'])}", style="dim")
    if more := max(0, len(found) - most) + judgement["hidden"]:
        yield Text(f"and {more:,} more; --output json has up to 50")


def sidecar_line(said: dict[str, Any]) -> str:
    """The process, its workers and its Envoys."""
    # One of before 0.3 does not say it.
    plain = "" if said.get("compiled", True) else " (not compiled)"
    parts = [f"epp-client {clean(said['version'])}{plain}, up {span(said['uptime'])}"]
    workers = round(said["workers"])
    parts.append(some(workers, "worker") if workers else "relays in the control process")
    if said["restarts"]:
        parts.append(f"{said['restarts']:,} crashed")
    parts.append(f"{some(said['envoys'], 'Envoy')} connected")
    if said["nacks"]:
        parts.append(f"{some(said['nacks'], 'configuration')} rejected")
    if not said["synced"]:
        parts.append("the pools have not been read yet")
    return ", ".join(parts)


def minute_line(said: dict[str, Any]) -> str:
    """All requests of the last minute."""
    minute = said["minute"]
    seconds, requests = said["minuteSeconds"], minute["requests"]
    return (
        f"last {span(min(seconds, 60))}: {rate(requests, seconds)} requests/s,"
        f" {share(minute['steered'], requests)} steered,"
        f" {share(total(minute['failedOpen']), requests)} failed open,"
        f" {share(total(minute['refused']), requests)} refused,"
        f" pick p50 {latency(minute['pickP50'])} p99 {latency(minute['pickP99'])},"
        f" {said['totals']['inFlight']:,} in flight"
    )
