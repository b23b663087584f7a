"""A child process that ends when its parent ends, even if the parent is killed."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

# Asks the kernel for a signal when the parent dies, then executes the command. A preexec_fn would run
# Python between fork and exec, which is unsafe beside threads. If the parent died before the request, the
# child sees another parent.
_END_WITH_PARENT: Final = (
    "import ctypes, os, sys;"
    "ctypes.CDLL(None).prctl(1, int(sys.argv[2]));"
    "os.getppid() == int(sys.argv[1]) or sys.exit('the parent has gone');"
    "os.execvp(sys.argv[3], sys.argv[3:])"
)
_PLAIN: Final = ("-E", "-S")
"""Options for Python programs that need only the standard library: they halve the time of a start."""


def ending_with_parent(command: Sequence[str], number: signal.Signals) -> list[str]:
    """The command line for a child of this process that gets the signal `number` when this process dies."""
    shim = [sys.executable, *_PLAIN, "-c", _END_WITH_PARENT]
    return [*shim, str(os.getpid()), str(int(number)), *command]


class Child:
    """A running child. It shares our output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str]) -> "Child":
        """Start `command`, whose first item is a path.

        Raises:
            OSError: no process or descriptor is free.
        """
        process = await asyncio.create_subprocess_exec(
            *ending_with_parent(command, signal.SIGTERM),
            stdin=asyncio.subprocess.DEVNULL,
            # Ctrl-C in a terminal signals the parent only, which drains both in order.
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def exited(self) -> int:
        """Wait until it ends; returns its exit code, negative for a signal."""
        return await self._process.wait()

    async def stop(self, grace: float) -> None:
        """Send SIGTERM, and SIGKILL if it has not ended after `grace` seconds."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._process.wait()
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
