"""What `epp-client tap` prints of each decision. Pure."""

import json
from datetime import tzinfo
from typing import Any, Final

from rich.text import Text

from epp_client.errors import AdminUnreachable
from epp_client.terminal.text import OUTCOME_COLOURS, clean, clock, latency

_POOL: Final = 24
"""Columns of the name of the pool; a longer one moves what follows."""
_RESULT: Final = 12
_ENDPOINT: Final = 21
LATE: Final = 3.0
"""Seconds by which a decision may be told after a later one: each worker tells once a second."""
_IDENTITY: Final = ("at", "pool", "request_id", "seconds", "outcome")
REMEMBERED: Final = 1_000
"""Decisions that are known again after the connection was lost. The sidecar keeps 400."""


def line(decision: dict[str, Any], zone: tzinfo | None = None) -> Text:
    """A decision in one line: when, which pool, what became of it and why, where, how long. `zone`: None
    for this machine's."""
    outcome = str(decision.get("outcome", ""))
    reason = clean(decision.get("reason", ""))
    text = Text().append(clock(decision.get("at", 0.0), zone, millis=True), style="dim")
    text.append("  ").append(clean(decision.get("pool", "")).ljust(_POOL), style="bold")
    text.append(" ")
    text.append(clean(outcome).ljust(_RESULT), style=OUTCOME_COLOURS.get(outcome, ""))
    if reason:
        text.append(f" {reason}", style=OUTCOME_COLOURS.get(outcome, ""))
    picked, served = clean(decision.get("picked", "")), clean(decision.get("served", ""))
    text.append(f" {(served or picked or '-').ljust(_ENDPOINT)}", style="")
    if served and picked and served != picked:
        text.append(f" (picked {picked})", style="yellow")
    failure = clean(decision.get("endpoint_failure", ""))
    if failure:
        text.append(f" {failure}", style="bold red")
    if (said := clean(decision.get("said", ""))) and said not in (picked, ""):
        text.append(f" picker said {said}", style="yellow")
    text.append(f" pick {latency(decision.get('pick_seconds'))}", style="")
    text.append(f" total {latency(decision.get('seconds', 0.0))}", style="")
    for key, word in (("retries", "asked again"), ("passed_over", "endpoints passed over")):
        if count := decision.get(key):
            text.append(f" {word} {clean(count)}", style="yellow")
    for key in ("passthrough", "eviction", "hint"):
        if value := decision.get(key):
            text.append(f" {key} {clean(value)}", style="yellow")
    if model := decision.get("model"):
        text.append(f" model {clean(model, 60)}", style="")
    return text.append(f" id {clean(decision.get('request_id', '')) or '-'}", style="dim")


def missed(count: Any) -> str:
    """What stands for failures that the sidecar did not record."""
    return f"{clean(count)} more failures were not recorded: too many at once"


def parsed(text: str) -> dict[str, Any] | None:
    """A line of `/decisions?follow=1`; None for a sign of life.

    Raises:
        AdminUnreachable: it is not of that form.
    """
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise AdminUnreachable("the admin page does not send the decisions of epp-client")
    return found


class Known:
    """Remembers which decisions were shown. After a lost connection the sidecar sends all that it keeps:
    those from before the loss are not shown again, nor those from before the start."""

    def __init__(self, start: float) -> None:
        """`start`: Unix time in seconds by the sidecar's clock."""
        self._newest = start
        self._from = 0.0
        self._seen: dict[tuple[Any, ...], None] = {}

    def again(self) -> None:
        """The connection is lost."""
        self._from = self._newest - LATE

    def is_new(self, decision: dict[str, Any]) -> bool:
        """Whether it is to be shown."""
        if "missed" in decision:
            return True
        key = tuple(decision.get(name) for name in _IDENTITY)
        at = decision.get("at", 0.0)
        if key in self._seen or at < self._from:
            return False
        self._newest = max(self._newest, at)
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True
