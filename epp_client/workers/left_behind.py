"""LeftBehind: worker processes of the program before an upgrade (SIGUSR2), still children of this
process."""

import asyncio
import contextlib
import os
import signal

_VARIABLE = "EPP_CLIENT_LEFT_BEHIND"
"""Environment variable with their process ids, for the upgraded program."""
_POLL_INTERVAL = 0.1
"""Seconds between two checks: an event loop only notices the exit of children that it started."""
_EXITING = 3.0
"""Seconds for a process to exit after its drain."""


class LeftBehind:
    """The earlier workers. Only this object reaps them, so their process ids are never reused."""

    def __init__(self) -> None:
        self._pids = {int(pid) for pid in os.environ.pop(_VARIABLE, "").split()}
        self.upgraded = bool(self._pids)
        """Whether an upgrade started this program, and the earlier one had workers."""

    @property
    def pids(self) -> list[int]:
        """Process ids of workers that have not ended."""
        self._pids -= {pid for pid in self._pids if _ended(pid)}
        return [*self._pids]

    async def reap(self) -> None:
        """Reap them; returns when the last has ended."""
        while True:
            if not self.pids:
                return
            await asyncio.sleep(_POLL_INTERVAL)

    async def drain(self, timeout: float) -> None:
        """Tell them to finish their open streams and exit within `timeout` seconds; then kill them."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout + _EXITING):
                await self.reap()
        self.kill()
        await self.reap()

    def kill(self) -> None:
        """Kill them now."""
        self._signal(signal.SIGKILL)

    def leave(self, more: list[int]) -> None:
        """Leave them, and `more`, to the next program."""
        os.environ[_VARIABLE] = " ".join(map(str, (*self.pids, *more)))

    def stay(self) -> None:
        """Undo `leave`, as the upgrade failed."""
        os.environ.pop(_VARIABLE, None)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, number)


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True
