"""A made-up sidecar's admin page for the commands, and the commands as processes."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from testbed.ports import free_ports
from tests.admin.fleet import Fleet

WAIT = 60.0
PROGRAM = str(Path(sys.executable).with_name("epp-client"))
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


async def command(*words: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run `epp-client WORDS` to its end."""
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    try:
        async with asyncio.timeout(WAIT):
            out, err = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@contextlib.asynccontextmanager
async def page(fleet: Fleet, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """The admin page of a fleet that works; returns its host:port."""
    server = fleet.server(address)

    async def working() -> None:
        while True:
            await asyncio.sleep(0.5)
            fleet.work(bool(fleet.store.problems))

    bound = await server.start()
    work = asyncio.create_task(working())
    try:
        yield bound
    finally:
        work.cancel()
        await server.close()


def free_address() -> str:
    """host:port that nothing listens on."""
    return f"127.0.0.1:{free_ports(1)[0]}"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *words: str, size: tuple[int, int] = (30, 150)) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.before = termios.tcgetattr(self._theirs)
        self.written = ""
        variables = {
            k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        # `setsid -c` makes it the terminal's foreground process, as a shell does.
        self.process = subprocess.Popen(
            ["setsid", "-c", "-w", sys.executable, "-m", "epp_client", *words],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**variables, "TERM": "xterm-256color"},
        )
        os.set_blocking(self._ours, False)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def read(self) -> str:
        """What was written since the start."""
        with contextlib.suppress(BlockingIOError, OSError):
            while some := os.read(self._ours, 1 << 16):
                self.written += some.decode(errors="replace")
        return self.written

    @property
    def text(self) -> str:
        """The same without escapes."""
        return _ESCAPES.sub("", self.read())

    async def shows(self, text: str, since: int = 0) -> int:
        """Wait until it has written `text`; returns how much it had written then."""
        until = time.monotonic() + WAIT
        while text not in self.text[since:]:
            assert time.monotonic() < until, (text, self.text[-3000:])
            assert self.process.poll() is None, (text, self.text[-3000:])
            await asyncio.sleep(0.05)
        return len(self.text)

    async def ends(self) -> int:
        """Wait for its end; returns the exit code."""
        until = time.monotonic() + WAIT
        while self.process.poll() is None:
            # It must not wait for a reader.
            self.read()
            assert time.monotonic() < until, self.text[-3000:]
            await asyncio.sleep(0.05)
        self.read()
        assert self.process.returncode is not None
        return self.process.returncode

    @property
    def clean(self) -> bool:
        """Whether the terminal is as it was: its modes, its screen, its cursor."""
        modes = termios.tcgetattr(self._theirs) == self.before
        screen = self.written.rfind("\x1b[?1049l") >= self.written.rfind("\x1b[?1049h")
        cursor = self.written.rfind("\x1b[?25h") >= self.written.rfind("\x1b[?25l")
        return modes and screen and cursor


def rows(text: str) -> list[Any]:
    """The JSON lines of an output."""
    import json

    return [json.loads(line) for line in text.splitlines()]
