"""Deadlines: many timers with few different durations. To arm one costs as much as to append to a list.

An exchange arms and disarms several timers within milliseconds, and few of them ring. Timers with the same
duration ring in the order in which they were armed, so one queue and one timer of the event loop are enough
for all of them. A disarmed timer stays in its queue until it is at the front.
"""

import asyncio
from typing import Final, Protocol, final

from mypy_extensions import mypyc_attr

from epp_client.relay.actions import Timer

_MOST_GONE: Final = 64
"""Timers that have rung or were disarmed, after which their places are freed."""


class Owner(Protocol):
    """The object that is called when a timer rings."""

    def rang(self, timer: Timer) -> None:
        """The deadline has passed."""


@mypyc_attr(free_list_len=1)
class Deadline:
    """One armed timer. `owner = None` disarms it."""

    __slots__ = ("due", "owner", "timer")

    def __init__(self, owner: Owner, timer: Timer, due: float) -> None:
        self.owner: Owner | None = owner
        self.timer = timer
        self.due = due


@final
class _Queue:
    """Timers of `seconds`, the first to ring first. Those before `first` have rung or were disarmed. A
    list, whose methods compiled code calls ten times as fast as those of a deque."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.rings = False
        """Whether the event loop has a timer for it."""
        self.deadlines: list[Deadline] = []
        self.first = 0

    def front(self) -> Deadline | None:
        """The armed timer that rings first; None if there is none."""
        deadlines = self.deadlines
        while self.first < len(deadlines):
            deadline = deadlines[self.first]
            if deadline.owner is not None:
                return deadline
            self.first += 1
            if self.first == _MOST_GONE:
                del deadlines[:_MOST_GONE]
                self.first = 0
        return None


class Deadlines:
    """The timers of one process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._time = loop.time
        # Those with timers, by their duration.
        self._queues: dict[float, _Queue] = {}
        # The last one of each timer, and the one before: the next duration is usually one of the two.
        self._last: list[_Queue] = [_Queue(0.0) for _ in Timer]
        self._before: list[_Queue] = [_Queue(0.0) for _ in Timer]

    def arm(self, owner: Owner, timer: Timer, seconds: float) -> Deadline:
        """Call `owner.rang` in `seconds`, unless the timer is disarmed before."""
        due = self._time() + seconds
        deadline = Deadline(owner, timer, due)
        # As int: an enum is a slow index in compiled code.
        number: int = timer
        queue = self._last[number]
        if queue.seconds != seconds or not queue.rings:
            last, queue = queue, self._before[number]
            if queue.seconds != seconds or not queue.rings:
                queue = self._queue(seconds, due)
            self._last[number], self._before[number] = queue, last
        queue.front()
        queue.deadlines.append(deadline)
        return deadline

    def _queue(self, seconds: float, due: float) -> _Queue:
        """The queue of a duration. A new one rings at `due`."""
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = _Queue(seconds)
            queue.rings = True
            self._loop.call_at(due, self._ring, seconds)
        return queue

    def _ring(self, seconds: float) -> None:
        queue, now = self._queues[seconds], self._time()
        try:
            while (deadline := queue.front()) is not None and deadline.due <= now:
                owner, deadline.owner = deadline.owner, None
                if owner is not None:
                    owner.rang(deadline.timer)
        # The other timers must ring even if one owner raises.
        finally:
            if (deadline := queue.front()) is not None:
                self._loop.call_at(deadline.due, self._ring, seconds)
            else:
                queue.rings = False
                del self._queues[seconds]
