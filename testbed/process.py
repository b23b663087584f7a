"""Child processes that end with their owner, whatever happens to it."""

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
from epp_client.up.child import ending_with_parent
from testbed.deaths import Death, ledger, worker_death

START_TIMEOUT = 60.0
"""Seconds from the start of a Python process to its first line."""
_LINE = 1024 * 1024
_TAIL = 60
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)


class ProcessFailed(EppClientError):
    """A child ended or did not become ready."""


class Process:
    """A child process. The last lines of its output are kept for error reports.
    If it ends without being told to, or in another way, that is a Death.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, name: str, log: Path | None = None
    ) -> None:
        self._process = process
        self.name = name
        self._log = log
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._first: asyncio.Queue[str] = asyncio.Queue(1)
        self._told: set[int] = set()
        self._awaited = False
        self._death: Death | None = None
        self._deaths = ledger()
        self._reader = asyncio.create_task(self._read())
        self._watcher = asyncio.create_task(self._watch())

    @classmethod
    async def start(cls, *command: str, log: Path | None = None) -> "Process":
        """Start `command`. stdout and stderr are one stream, kept in memory or appended to `log`.
        The child writes to the log itself, so its own children can write on when it has ended.
        """
        with contextlib.ExitStack() as files:
            output = files.enter_context(log.open("ab")) if log else asyncio.subprocess.PIPE
            process = await cls._execute(command, output)
        return cls(process, os.path.basename(command[0]), log)

    @staticmethod
    async def _execute(command: tuple[str, ...], output: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *ending_with_parent(command, signal.SIGKILL),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    @classmethod
    async def python(cls, module: str, *arguments: str) -> tuple["Process", dict[str, Any]]:
        """Run a Python module until its first line, which is JSON with its address.

        Raises:
            ProcessFailed: see `ready`.
        """
        return await cls.ready(sys.executable, "-m", module, *arguments, name=module)

    @classmethod
    async def ready(cls, *command: str, name: str = "") -> tuple["Process", dict[str, Any]]:
        """Run `command` until its first line, which is JSON.

        Raises:
            ProcessFailed: it ended, or printed nothing for `START_TIMEOUT` s; the text has its output.
        """
        child = await cls.start(*command)
        child.name = name or child.name
        try:
            async with asyncio.timeout(START_TIMEOUT):
                return child, json.loads(await child._first_line())
        except (TimeoutError, ValueError) as error:
            failed = child.failed("did not become ready")
            await child.stop()
            raise failed from error
        except asyncio.CancelledError:
            # No caller has the child yet, so end it here.
            await child.kill()
            raise

    async def exited(self) -> int:
        """Wait until it ends; returns the exit code."""
        self._known()
        return await self._process.wait()

    def failed(self, what: str) -> ProcessFailed:
        """The exception to raise if this child cannot be used. Its end is not a Death then."""
        self._known()
        return ProcessFailed(f"{self.name} {what}:\n{self.tail}")

    def _known(self) -> None:
        """Its end is expected: it is not a Death."""
        self._awaited = True
        if self._death in self._deaths:
            self._deaths.remove(self._death)

    async def _watch(self) -> None:
        """Record a Death when it ends, unless the end is expected."""
        code = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            # Read its last output; the pipe may stay open if it has children.
            async with asyncio.timeout(1):
                await asyncio.shield(self._reader)
        if not (self._awaited or (self._told and (code == 0 or -code in self._told))):
            self._death = Death(self.name, self.pid, code, bool(self._told), self.tail)
            self._deaths.append(self._death)

    async def _first_line(self) -> str:
        """The first line of JSON; empty if the child ended without one."""
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
            if (died := worker_death(text)) is not None and died[1] != -signal.SIGKILL:
                worker = f"a worker of {self.name}"
                self._deaths.append(Death(worker, *died, asked=False, tail=self.tail))
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
        """Send a signal to the process."""
        if self.running:
            if number in _ENDS:
                self._told.add(number)
            # asyncio's own send_signal may reap a child that has just ended: its exit code is then lost.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and wait."""
        self.signal(signal.SIGKILL)
        await self._reap()

    async def stop(self, grace: float = 5.0) -> int:
        """Send SIGTERM, and SIGKILL after `grace` seconds; returns the exit code."""
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
        await self._watcher
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        self._process._transport.close()  # type: ignore[attr-defined]
