"""Reads the stream `/live` of a sidecar, again and again. A shell."""

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from epp_client.errors import AdminUnreachable
from epp_client.terminal.admin import read_lines
from epp_client.terminal.live import Event, events
from epp_client.terminal.target import Target
from epp_client.terminal.watch import BEGIN, LOST

PATIENCE: Final = 10.0
"""Longest silence in seconds. The sidecar writes every 2 s."""
PAUSE: Final = 1.0
"""Seconds between two attempts."""


def connected(target: Target, query: Mapping[str, Any]) -> Iterator[Event]:
    """The events of one connection, after `BEGIN`.

    Raises:
        AdminUnreachable: it is lost, or cannot be made.
    """
    lines = read_lines(target.address(), "/live", query, PATIENCE)
    for number, event in enumerate(events(lines)):
        if not number:
            yield BEGIN, None
        yield event


class Feed(threading.Thread):
    """Puts the events of one connection after the other into `queue`, for a main thread that waits for keys
    too."""

    def __init__(self, target: Target, query: Mapping[str, Any]) -> None:
        super().__init__(name="feed", daemon=True)
        self._target = target
        self._query = query
        self.queue: queue.Queue[Event] = queue.Queue(1_000)

    def run(self) -> None:
        """Read until the process ends."""
        while True:
            try:
                for event in connected(self._target, self._query):
                    self.queue.put(event)
            except AdminUnreachable as error:
                self.queue.put((LOST, str(error)))
            self._target.lost()
            time.sleep(PAUSE)
