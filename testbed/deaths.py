"""Deaths: processes that ended although nobody had told them to, or in another way than they were told.

Whoever starts processes looks here at the end, and while they run: the demo, chaos, every test. Requests
alone do not show a death: what restarts a process hides it.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

WORKER_DIED = "restarting a relay worker that crashed"
"""The sidecar's log line of a worker's death, with `pid` and `exit_code`."""


@dataclass(frozen=True)
class Death:
    """One process that has died."""

    name: str
    pid: int
    code: int
    """Its exit status; a signal is negative."""
    asked: bool
    """Whether it had been told to end, and ended in another way."""
    tail: str
    """The end of its log."""

    def __str__(self) -> str:
        when = "when it was told to end" if self.asked else "and nobody had told it to end"
        return f"{self.name} (pid {self.pid}) {_ended(self.code)}, {when}:\n{self.tail}"


def _ended(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"


DEATHS: list[Death] = []
"""Of processes for which nobody else looks."""
_noted: ContextVar[list[Death]] = ContextVar("deaths", default=DEATHS)


def ledger() -> list[Death]:
    """Where the deaths of processes are noted that are started here and now."""
    return _noted.get()


@contextmanager
def deaths_noted() -> Iterator[list[Death]]:
    """Deaths of the processes that are started within, by this task and its own ones."""
    found: list[Death] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def worker_death(line: str) -> tuple[int, int] | None:
    """(pid, exit status) when a line of the sidecar's JSON log tells of a worker's death."""
    if WORKER_DIED not in line:
        return None
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return int(told["pid"]), int(told["exit_code"] or 0)
