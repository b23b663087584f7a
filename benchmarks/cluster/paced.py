"""Edits one after the other, each timed until it is seen, with a pause behind each."""

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
    """What is written, and how long nothing is after it has been seen."""

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
    """Milliseconds from sending each write until `until_seen`, by `time.perf_counter`; of each kind.

    `pairs` are edits there and back, made anew for each repetition.
    """
    dice, pause = random.Random(1), LONG
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(repetitions):
        for pair in pairs(dice):
            if len(samples[pair[0].what]) >= repetitions:
                # both ways count for it
                continue
            for edit in pair:
                await asyncio.sleep(dice.uniform(*pause))
                begun = time.perf_counter()
                write = asyncio.create_task(api.patch(*edit.write))
                samples[edit.what].append((await until_seen(edit) - begun) * 1000)
                await write
                pause = edit.pause
    return {what: summary(values) for what, values in samples.items()}
