"""SocketNames: has our Unix sockets bound again when their names are removed from under us.

A cleaned folder, or a tmpfs that is mounted anew, takes the names and leaves the connections: nothing is
lost until Envoy connects again. How a socket is bound is its owner's business.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from epp_client.errors import SettingsError
from epp_client.wire.socket_file import served

log = structlog.get_logger(__name__)

LOOK = 0.25
"""Seconds between two looks. The folder, which is what one could watch, may be removed as well."""


class SocketName(NamedTuple):
    """The name of a listening socket of ours."""

    path: Path
    inode: Callable[[], int | None]
    """What the name should lead to; None while it is being bound or given up."""
    bind_again: Callable[[], Awaitable[None]]
    """Raises OSError, RuntimeError or SettingsError when it cannot be bound."""


class SocketNames:
    """Watches them from `run` until that is cancelled."""

    def __init__(
        self, names: Sequence[SocketName], changed: Callable[["SocketNames"], None]
    ) -> None:
        """`changed` is called whenever `trouble` has changed."""
        self._names = names
        self._changed = changed
        self._trouble: dict[Path, str] = {}

    @property
    def trouble(self) -> str:
        """Which sockets cannot be connected to, and why; empty when all can."""
        return "; ".join(self._trouble.values())

    async def run(self) -> None:
        """Look at each name until cancelled."""
        async with asyncio.TaskGroup() as looking:
            for name in self._names:
                looking.create_task(self._follow(name))

    async def _follow(self, name: SocketName) -> None:
        elsewhere = 0
        while True:
            await asyncio.sleep(LOOK)
            inode = name.inode()
            if inode is None:
                continue
            found = _inode(name.path)
            if found == inode:
                elsewhere = 0
                self._say(name.path, "")
            elif found is not None and served(name.path):
                # A worker of ours that takes over is told of a moment later.
                elsewhere += 1
                if elsewhere > 1:
                    self._say(
                        name.path,
                        f"{name.path} is the socket of another process, which has replaced ours; "
                        "stop one of the two",
                    )
            else:
                elsewhere = 0
                await self._bind_again(name)

    async def _bind_again(self, name: SocketName) -> None:
        self._say(name.path, f"{name.path} was removed and is being bound again")
        try:
            await name.bind_again()
        except (OSError, RuntimeError, SettingsError) as error:
            self._say(name.path, f"{name.path} was removed and cannot be bound again: {error}")
        else:
            log.info("a socket that was removed is bound again", socket=str(name.path))
            self._say(name.path, "")

    def _say(self, path: Path, trouble: str) -> None:
        if self._trouble.get(path, "") == trouble:
            return
        if trouble:
            self._trouble[path] = trouble
            log.warning("a socket cannot be connected to", socket=str(path), reason=trouble)
        else:
            del self._trouble[path]
        self._changed(self)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
