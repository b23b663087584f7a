"""Numbers, times and foreign text for people. Pure; the clock is an argument."""

from datetime import UTC, datetime, tzinfo
from typing import Any, Final

COLOURS: Final = {"ok": "green", "degraded": "yellow", "failing": "bold red"}
"""Style of each level of the judgement."""
OUTCOME_COLOURS: Final = {
    "steered": "green",
    "local_pick": "green",
    "failed_open": "yellow",
    "refused": "bold red",
    "refused_by_picker": "magenta",
    "evicted": "magenta",
}
"""Style of each outcome of a request; the others have none."""


def clean(text: Any, most: int = 300) -> str:
    """`text` without what a terminal would obey: control characters, escapes and changes of direction are
    written as `\\x1b`. Longer text is cut."""
    shown = str(text)
    if len(shown) > most:
        shown = shown[: most - 1] + "…"
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii", "replace")
        for sign in shown
    )


def clock(at: float, zone: tzinfo | None = None, *, millis: bool = False) -> str:
    """A time of the day with its offset from UTC. `zone`: None for this machine's."""
    moment = datetime.fromtimestamp(at, UTC).astimezone(zone)
    seconds = f"{moment:%H:%M:%S}"
    if millis:
        seconds += f".{moment.microsecond // 1000:03}"
    return f"{seconds}{moment:%z}"


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def latency(seconds: float | None) -> str:
    """A latency with three digits, `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        millis = seconds * 1000
        return f"{millis:.2g} ms" if millis < 10 else f"{millis:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def some(count: float, word: str) -> str:
    """`1 Envoy`, `2 Envoys`."""
    return f"{count:,.0f} {word}{'' if count == 1 else 's'}"


def rate(count: float, seconds: float) -> str:
    """A rate per second, `-` as long as there are no seconds."""
    if seconds <= 0:
        return "-"
    found = count / seconds
    return f"{found:.1f}" if found < 100 else f"{found:,.0f}"


def share(part: int, whole: int) -> str:
    """A share in per cent. It is 100 or 0 only if it is all or none; `-` for none of none."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    if 0 < part < whole:
        percent = min(max(percent, 0.1), 99.9)
    return f"{percent:.1f} %" if percent % 100 else f"{percent:.0f} %"


def total(counts: Any) -> int:
    """The sum of counts by reason."""
    return sum(counts.values()) if counts else 0


def main_reason(*counts: Any) -> str:
    """The most frequent reason of all counts; empty without one."""
    found: dict[str, int] = {}
    for one in counts:
        for reason, count in (one or {}).items():
            found[reason] = found.get(reason, 0) + count
    return max(found, key=lambda reason: found[reason], default="")
