"""Child processes with an owner: they end with it, by pid, whatever happens to it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any

from epp_client.errors import EppClientError

# Asks the kernel to end the child when its parent dies, then becomes the command. A preexec_fn would
# do the same between fork and exec, where grpcio's threads make Python code unsafe.
# A parent that died before the request was made is seen by the child having another parent.
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys;"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL);"
    "os.getppid() == int(sys.argv[1]) or sys.exit('the parent has gone');"
    "os.execvp(sys.argv[2], sys.argv[2:])"
)

START_TIMEOUT = 60.0
"""Seconds from the start of a Python peer to its first line."""
_LINE = 1024 * 1024
_TAIL = 60


class ProcessFailed(EppClientError):
    """A child ended, or stayed silent, when it should have become ready."""


class Process:
    """One running child; its output's tail is kept for error reports."""

    def __init__(
        self, process: asyncio.subprocess.Process, name: str, log: Path | None = None
    ) -> None:
        self._process = process
        self.name = name
        self._log = log
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._first: asyncio.Queue[str] = asyncio.Queue(1)
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, *command: str, log: Path | None = None) -> "Process":
        """Start `command`; stdout and stderr are one stream, kept in memory or added to `log`.

        The child writes to the log itself: its own children can go on when it has gone.
        """
        with contextlib.ExitStack() as files:
            output = files.enter_context(log.open("ab")) if log else asyncio.subprocess.PIPE
            process = await cls._execute(command, output)
        return cls(process, os.path.basename(command[0]), log)

    @staticmethod
    async def _execute(command: tuple[str, ...], output: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _DIE_WITH_PARENT,
            str(os.getpid()),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    @classmethod
    async def python(cls, module: str, *arguments: str) -> tuple["Process", dict[str, Any]]:
        """Run a module of ours until its first line, which is JSON and says where it listens.

        Raises:
            ProcessFailed: it ended, or said nothing for `START_TIMEOUT`; the text has its output.
        """
        child = await cls.start(sys.executable, "-m", module, *arguments)
        child.name = module
        try:
            async with asyncio.timeout(START_TIMEOUT):
                return child, json.loads(await child._first_line())
        except (TimeoutError, ValueError) as error:
            await child.stop()
            raise ProcessFailed(f"{module} did not become ready:\n{child.tail}") from error
        except asyncio.CancelledError:
            # Nobody has the child yet who could end it.
            await child.kill()
            raise

    async def exited(self) -> int:
        """Wait for its end; the exit code."""
        return await self._process.wait()

    async def _first_line(self) -> str:
        """The first line of JSON; empty when the child ended without one."""
        first = asyncio.create_task(self._first.get())
        try:
            await asyncio.wait((first, self._reader), return_when=asyncio.FIRST_COMPLETED)
            return first.result() if first.done() else ""
        finally:
            first.cancel()

    async def _read(self) -> None:
        if self._process.stdout is None:
            return
        async for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            if text.startswith("{") and self._first.empty():
                self._first.put_nowait(text)

    @property
    def tail(self) -> str:
        """The last lines of output."""
        if self._log is not None:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-_TAIL:])
        return "\n".join(self._tail)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process."""
        if self.running:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait."""
        self.signal(signal.SIGKILL)
        await self._reap()

    async def stop(self, grace: float = 5.0) -> int:
        """SIGTERM, after `grace` seconds SIGKILL; the exit code."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
        await self._reap()
        return self._process.returncode or 0

    async def _reap(self) -> None:
        await self._process.wait()
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        self._process._transport.close()  # type: ignore[attr-defined]
