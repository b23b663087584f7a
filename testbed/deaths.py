"""Records deaths: processes that ended without being told to, or in another way than told.

The demo, chaos and every test check the record. Failed requests are not enough to notice a crash, as the
process is restarted.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

WORKER_DIED = "restarting a relay worker that crashed"
"""The sidecar's log line for a crashed worker, with `pid` and `exit_code`."""


@dataclass(frozen=True)
class Death:
    """One process that has died."""

    name: str
    pid: int
    code: int
    """Its exit status; negative for a signal."""
    asked: bool
    """Whether it was told to end, and ended in another way."""
    tail: str
    """The end of its log."""

    def __str__(self) -> str:
        when = "when it was told to end" if self.asked else "without being told to end"
        return f"{self.name} (pid {self.pid}) {_ended(self.code)}, {when}:\n{self.tail}"


def _ended(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"


DEATHS: list[Death] = []
"""Deaths of processes started outside of `deaths_noted`."""
_noted: ContextVar[list[Death]] = ContextVar("deaths", default=DEATHS)


def ledger() -> list[Death]:
    """The list for deaths of processes that are started in this context."""
    return _noted.get()


@contextmanager
def deaths_noted() -> Iterator[list[Death]]:
    """Yields the list for deaths of processes that are started in the block, by this task and its
    children."""
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
