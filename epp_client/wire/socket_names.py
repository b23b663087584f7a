"""SocketNames: has our Unix sockets bound again when their names were removed.

If the directory is cleaned, or its tmpfs mounted again, open connections live on, but Envoy cannot connect
again. Owners of the sockets bind them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from epp_client.errors import SettingsError
from epp_client.wakeups import pause
from epp_client.wire.socket_file import served

log = structlog.get_logger(__name__)

POLL_INTERVAL = 0.5
"""Seconds between two checks. A watch would not do, because the directory may be removed too."""


class SocketName(NamedTuple):
    """The name of one of our listening sockets."""

    path: Path
    inode: Callable[[], int | None]
    """The expected inode of the name; None while the socket is being bound or given up."""
    bind_again: Callable[[], Awaitable[None]]
    """Binds the socket again, or raises OSError, RuntimeError or SettingsError."""


class SocketNames:
    """Checks the names while `run` runs."""

    def __init__(
        self, names: Sequence[SocketName], changed: Callable[["SocketNames"], None]
    ) -> None:
        """`changed` is called after every change of `trouble`."""
        self._names = names
        self._changed = changed
        self._trouble: dict[Path, str] = {}

    @property
    def trouble(self) -> str:
        """Which sockets Envoy cannot connect to, and why; empty if it can connect to all."""
        return "; ".join(self._trouble.values())

    async def run(self) -> None:
        """Check every name until cancelled."""
        async with asyncio.TaskGroup() as looking:
            for name in self._names:
                looking.create_task(self._follow(name))

    async def _follow(self, name: SocketName) -> None:
        elsewhere = 0
        while True:
            await pause(POLL_INTERVAL)
            inode = name.inode()
            if inode is None:
                continue
            found = _inode(name.path)
            if found == inode:
                elsewhere = 0
                self._set_trouble(name.path, "")
            elif found is not None and served(name.path):
                # The inode of a new worker's socket may be reported a moment later, so check twice.
                elsewhere += 1
                if elsewhere > 1:
                    self._set_trouble(
                        name.path,
                        f"{name.path} was replaced by another process; stop one of the two",
                    )
            else:
                elsewhere = 0
                await self._bind_again(name)

    async def _bind_again(self, name: SocketName) -> None:
        self._set_trouble(name.path, f"{name.path} was removed; binding it again")
        try:
            await name.bind_again()
        except (OSError, RuntimeError, SettingsError) as error:
            self._set_trouble(
                name.path, f"{name.path} was removed and cannot be bound again: {error}"
            )
        else:
            log.info("bound a removed socket again", socket=str(name.path))
            self._set_trouble(name.path, "")

    def _set_trouble(self, path: Path, trouble: str) -> None:
        if self._trouble.get(path, "") == trouble:
            return
        if trouble:
            self._trouble[path] = trouble
            log.warning("Envoy cannot connect to a socket", socket=str(path), reason=trouble)
        else:
            del self._trouble[path]
        self._changed(self)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
