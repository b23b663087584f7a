"""The messages between the control process and a relay worker, and the socket pair that carries them.

Messages are pickled and prefixed with their length. The pair is inherited and has no name, so only the two
processes, which run the same code as the same user, can write to it.
"""

import asyncio
import contextlib
import pickle
import socket
import struct
from typing import Any, NamedTuple

from epp_client.data_plane.plane import Inherited
from epp_client.metrics.counters import Counters
from epp_client.metrics.decisions import News
from epp_client.pool.delta import SnapshotDelta
from epp_client.settings import ServeSettings

_LENGTH = struct.Struct("!Q")
_LIMIT = 1024 * 1024
"""Size of the read buffer in bytes; a message may be larger."""


class Configure(NamedTuple):
    """To the worker, as its first message."""

    worker: int
    """Index of the worker."""
    settings: ServeSettings
    """`socket` is the worker's own."""
    pools_follow: bool
    """The pools are known and follow: listen after they have been received."""
    inherited: Inherited | None
    """The socket to listen on; None: bind one (grpcio cannot use an inherited socket)."""


class Pools(NamedTuple):
    """To the worker: changed and deleted pools."""

    changed: tuple[SnapshotDelta, ...]
    gone: tuple[str, ...]


class Count(NamedTuple):
    """To the worker: send your counters."""

    number: int


class LogLevel(NamedTuple):
    """To the worker: log at this level from now on."""

    level: str


class Forget(NamedTuple):
    """To the worker: a deleted pool's counters have been scraped for the last time."""

    pool: str


class Drain(NamedTuple):
    """To the worker: accept no new streams, and exit once the open ones have ended."""

    timeout: float


class Serving(NamedTuple):
    """From the worker: it listens."""


class Failed(NamedTuple):
    """From the worker: it cannot serve and exits."""

    text: str


class Wanted(NamedTuple):
    """From the worker: picks wait for endpoints of these pools, which Envoy may not have."""

    pools: tuple[str, ...]


class Leaving(NamedTuple):
    """From the worker: another process sent it SIGTERM, so it accepts no more connections."""


class Counted(NamedTuple):
    """From the worker: its counters. `number` is that of the request, or 0 for the last counters before
    exit."""

    number: int
    counters: Counters
    news: News
    """What it has recorded since its last counters."""


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> "Channel":
        """Use one end of a connected pair of stream sockets."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_LIMIT))

    async def send(self, message: Any) -> None:
        """Send, and wait while the peer is slow to read.

        Raises:
            OSError: the peer has closed its end.
        """
        # uvloop would raise a RuntimeError.
        if self._writer.is_closing():
            raise BrokenPipeError("the peer has closed the channel")
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        self._writer.write(_LENGTH.pack(len(data)) + data)
        await self._writer.drain()

    async def receive(self) -> Any:
        """The next message; None once the peer has closed its end."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return pickle.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def end(self, timeout: float) -> None:
        """Send no more, and close once the peer has closed its end, or after `timeout` seconds. If we
        closed at once, a write of the peer would break its transport, and it would lose the messages that
        it has not read yet."""
        # uvloop raises a RuntimeError if the transport is closed already.
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self._writer.write_eof()
            async with asyncio.timeout(timeout):
                while await self._reader.read(1 << 16):
                    pass
        self.close()

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
