"""LeftBehind: the workers of the program before an upgrade, which are children of this process."""

import asyncio
import contextlib
import os
import signal

_VARIABLE = "EPP_CLIENT_LEFT_BEHIND"
"""Environment variable with which an upgraded process is told of them."""
_LOOK = 0.1
"""Seconds between two looks: an event loop hears only of children that it has started."""
_EXITING = 3.0
"""Seconds for a process to exit once its drain is over."""


class LeftBehind:
    """Nobody else reaps them, so that none of the process ids is another process's by now."""

    def __init__(self) -> None:
        self._pids = {int(pid) for pid in os.environ.pop(_VARIABLE, "").split()}
        self.upgraded = bool(self._pids)
        """Whether there was a program before this one, that had workers."""

    @property
    def pids(self) -> list[int]:
        """Those that have not ended."""
        self._pids -= {pid for pid in self._pids if _ended(pid)}
        return [*self._pids]

    async def reap(self) -> None:
        """Take their exit codes; returns when the last has ended."""
        while True:
            if not self.pids:
                return
            await asyncio.sleep(_LOOK)

    async def drain(self, timeout: float) -> None:
        """Have them finish their open streams within `timeout` seconds and exit; killed if they do not."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout + _EXITING):
                await self.reap()
        self.kill()
        await self.reap()

    def kill(self) -> None:
        """End them now."""
        self._signal(signal.SIGKILL)

    def leave(self, more: list[int]) -> None:
        """Tell the next program of them, and of `more`."""
        os.environ[_VARIABLE] = " ".join(map(str, (*self.pids, *more)))

    def stay(self) -> None:
        """There is no next program."""
        os.environ.pop(_VARIABLE, None)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, number)


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True
