"""Follows the decisions of a sidecar for `epp-client tap`. A shell."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from epp_client.errors import AdminUnreachable
from epp_client.terminal.admin import read_json, read_lines
from epp_client.terminal.tap import Known, parsed
from epp_client.terminal.target import Target
from epp_client.terminal.text import clock
from epp_client.time_of_day import unix_time

PATIENCE: Final = 45.0
"""Longest silence in seconds. The sidecar gives a sign of life every 15 s."""
PAUSE: Final = 1.0
"""Seconds between two attempts."""
_ALL: Final = 400
"""Decisions that a sidecar keeps."""


def earlier(target: Target, query: Mapping[str, Any], last: int) -> list[dict[str, Any]]:
    """The last decisions, oldest first.

    Raises:
        AdminUnreachable: the sidecar does not answer.
    """
    said = read_json(target.address(), "/decisions", {**query, "last": last})
    found: list[dict[str, Any]] = said["decisions"]
    return found


def decisions(
    target: Target,
    query: Mapping[str, Any],
    last: int,
    say: Callable[[str], None],
    alive: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Decisions as they fall, `last` earlier ones first, without an end. Also `{"missed": n}`, see
    `/decisions`. Connects again when the connection is lost, and shows what has come meanwhile, once. `say`
    is told both. `alive` is called at every sign of life.

    Raises:
        AdminUnreachable: the sidecar does not answer at the start.
    """
    known = Known(read_json(target.address(), "/status").get("at", 0.0))
    asked = {**query, "follow": 1, "last": last}
    lost = False
    while True:
        try:
            for text in read_lines(target.address(), "/decisions", asked, PATIENCE):
                if lost:
                    say(f"{clock(unix_time())} {target.name} answers again")
                lost = False
                alive()
                decision = parsed(text)
                if decision is not None and known.is_new(decision):
                    yield decision
        except AdminUnreachable as error:
            if not lost:
                say(f"{clock(unix_time())} {error}; trying again")
            lost = True
        known.again()
        asked["last"] = _ALL
        target.lost()
        time.sleep(PAUSE)
