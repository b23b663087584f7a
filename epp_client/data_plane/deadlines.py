"""Deadlines: many timers with few different durations. To arm one costs as much as to append to a list.

An exchange arms and disarms several timers within milliseconds, and few of them ring. Timers with the same
duration ring in the order in which they were armed, so one queue and one timer of the event loop are enough
for all of them. A disarmed timer stays in its queue until it is at the front.
"""

import asyncio
from collections import deque
from typing import Protocol

from epp_client.relay.actions import Timer


class Owner(Protocol):
    """The object that is called when a timer rings."""

    def rang(self, timer: Timer) -> None:
        """The deadline has passed."""


class Deadline:
    """One armed timer. `owner = None` disarms it."""

    __slots__ = ("due", "owner", "timer")

    def __init__(self, owner: Owner, timer: Timer, due: float) -> None:
        self.owner: Owner | None = owner
        self.timer = timer
        self.due = due


class Deadlines:
    """The timers of one process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues: dict[float, deque[Deadline]] = {}

    def arm(self, owner: Owner, timer: Timer, seconds: float) -> Deadline:
        """Call `owner.rang` in `seconds`, unless the timer is disarmed before."""
        due = self._loop.time() + seconds
        deadline = Deadline(owner, timer, due)
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = deque()
            self._loop.call_at(due, self._ring, seconds)
        while queue and queue[0].owner is None:
            queue.popleft()
        queue.append(deadline)
        return deadline

    def _ring(self, seconds: float) -> None:
        queue, now = self._queues[seconds], self._loop.time()
        try:
            while queue and (queue[0].owner is None or queue[0].due <= now):
                deadline = queue.popleft()
                owner, deadline.owner = deadline.owner, None
                if owner is not None:
                    owner.rang(deadline.timer)
        # The other timers must ring even if one owner raises.
        finally:
            if queue:
                self._loop.call_at(queue[0].due, self._ring, seconds)
            else:
                del self._queues[seconds]
