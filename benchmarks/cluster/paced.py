"""Runs edits one after the other with pauses, and measures the time until each is seen."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from benchmarks.cluster.edits import LONG, Write
from benchmarks.cluster.population import summary
from testbed.cluster.api import Api


class Paced(Protocol):
    """A write, and the pause after it was seen."""

    @property
    def what(self) -> str: ...

    @property
    def write(self) -> Write: ...

    @property
    def pause(self) -> tuple[float, float]: ...


E = TypeVar("E", bound=Paced)


async def timed(
    api: Api,
    pairs: Callable[[random.Random], Iterable[tuple[E, E]]],
    until_seen: Callable[[E], Awaitable[float]],
    repetitions: int,
) -> dict[str, Any]:
    """Milliseconds from sending each write until `until_seen`, by kind.
    `pairs` makes the edits, forth and back, of one repetition.
    """
    dice, pause = random.Random(1), LONG
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(repetitions):
        for pair in pairs(dice):
            if len(samples[pair[0].what]) >= repetitions:
                # Both edits of a pair may be of one kind.
                continue
            for edit in pair:
                await asyncio.sleep(dice.uniform(*pause))
                begun = time.perf_counter()
                write = asyncio.create_task(api.patch(*edit.write))
                samples[edit.what].append((await until_seen(edit) - begun) * 1000)
                await write
                pause = edit.pause
    return {what: summary(values) for what, values in samples.items()}
