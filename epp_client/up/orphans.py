"""Reaps processes that `up` has not started, but is the parent of: in a container it is process 1, and gets
the workers of a sidecar that was killed."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Container
from typing import Final

INTERVAL: Final = 1.0
"""Seconds between two looks."""


def adopts() -> bool:
    """Whether this process gets the children of processes that end."""
    return os.getpid() == 1


async def reap(started: Callable[[], Container[int]]) -> None:
    """Reap until cancelled. `started` has the process ids that are somebody else's to reap.

    A process that was started a moment ago may not be among them yet, so an id has to be seen twice.
    """
    seen = 0
    while True:
        await asyncio.sleep(INTERVAL)
        ended = _ended()
        if ended == seen and ended not in started():
            _forget(ended)
            ended = _ended()
        seen = ended


def _forget(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _ended() -> int:
    """The process id of a child that has ended and is not reaped; 0 if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found is not None else 0
