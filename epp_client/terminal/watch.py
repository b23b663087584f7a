"""Watch: the state that `epp-client top` shows, through lost connections and restarts of the sidecar. Pure;
times are Unix times in seconds."""

from datetime import tzinfo
from typing import Any, Final

from epp_client.terminal.live import Live
from epp_client.terminal.text import clock, span

BEGIN: Final = "begin"
"""Event of ours: a connection has its first answer."""
LOST: Final = "lost"
"""Event of ours: the connection is lost; the data says why."""
TOLD_FOR: Final = 30.0
"""Seconds for which a restart is told."""
_SAME: Final = 5.0
"""Seconds by which two answers of one process may differ about its start."""


class Watch:
    """What is known, and since when it is old."""

    def __init__(self) -> None:
        self.live = Live()
        self._heard = 0.0
        self._why = ""
        self._started: float | None = None
        self._uptime = 0.0
        # The start of the sidecar that followed another one, and when it was found.
        self._restarted = self._told_at = 0.0

    def take(self, name: str, data: Any, now: float) -> None:
        """Take an event of the stream, or one of ours."""
        if name == LOST:
            self._why = str(data)
            return
        self._heard, self._why = now, ""
        if name == BEGIN:
            self.live = Live()
            return
        self.live.take(name, data)
        if name == "head":
            started = data["at"] - data["uptime"]
            if self._started is not None and (
                data["uptime"] < self._uptime or started - self._started > _SAME
            ):
                self._restarted, self._told_at = started, now
            self._started, self._uptime = started, data["uptime"]

    def complete(self, pool: str) -> bool:
        """Whether everything that a frame shows is there."""
        live = self.live
        if not live.head or (pool and not live.detail):
            return False
        return bool(live.rows) or not live.head["pools"]["matching"]

    def trouble(self, now: float, zone: tzinfo | None = None) -> str:
        """What a person must know about the age of what is shown; empty if it is current."""
        if self._why and not self._heard:
            return f"No answer yet: {self._why}. Trying again."
        if self._why:
            since = f"{clock(self._heard, zone)} ({span(now - self._heard)})"
            return f"No answer since {since}: {self._why}. Trying again."
        if self._told_at and now - self._told_at < TOLD_FOR:
            return f"The sidecar has restarted: it runs since {clock(self._restarted, zone)}."
        return ""
