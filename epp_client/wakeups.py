"""Pauses of tasks that look at something again and again.

A process that is idle most of the time is cold each time it wakes up, so a wake-up costs more than what is
done. These pauses end at whole multiples of their length, so several such tasks share wake-ups.
"""

import asyncio
from typing import Final

_SHORTEST: Final = 0.25
"""Part of the interval below which a pause goes on for another interval."""


async def pause(interval: float) -> None:
    """Sleep until the next multiple of `interval`, in seconds of the event loop's clock."""
    await asyncio.sleep(until_next(asyncio.get_running_loop().time(), interval))


def until_next(now: float, interval: float) -> float:
    """Seconds until the next multiple of `interval` that is at least a quarter of it away."""
    left = interval - now % interval
    return left if left > interval * _SHORTEST else left + interval
