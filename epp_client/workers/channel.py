"""What the control process and a relay worker say to each other, and the socket pair they say it on.

Messages are pickled behind their length. The pair is inherited, never bound to a name: nobody but the
two processes, which run the same code as the same user, can write to it.
"""

import asyncio
import contextlib
import pickle
import socket
import struct
from typing import Any, NamedTuple

from epp_client.data_plane.plane import Inherited
from epp_client.metrics.counters import Counters
from epp_client.pool.delta import SnapshotDelta
from epp_client.settings import ServeSettings

_LENGTH = struct.Struct("!Q")
_LIMIT = 1024 * 1024
"""Bytes read ahead; a message may be larger."""


class Configure(NamedTuple):
    """To the worker, first of all: what it is to be."""

    worker: int
    """Its place among the workers."""
    settings: ServeSettings
    """`socket` is the worker's own."""
    pools_follow: bool
    """The pools are known and come next: listen when they are there."""
    inherited: Inherited | None
    """The socket to listen on; None: bind it (grpcio cannot be given one)."""


class Pools(NamedTuple):
    """To the worker: pools that are not what it knows."""

    changed: tuple[SnapshotDelta, ...]
    gone: tuple[str, ...]


class Count(NamedTuple):
    """To the worker: answer with your counters."""

    number: int


class Forget(NamedTuple):
    """To the worker: a deleted pool's counters have been scraped for the last time."""

    pool: str


class Drain(NamedTuple):
    """To the worker: no new streams, and exit when the open ones are over."""

    timeout: float


class Serving(NamedTuple):
    """From the worker: it listens."""


class Failed(NamedTuple):
    """From the worker: it cannot serve, and exits."""

    text: str


class Wanted(NamedTuple):
    """From the worker: picks wait for endpoints of these pools that Envoy may not have."""

    pools: tuple[str, ...]


class Leaving(NamedTuple):
    """From the worker: it was told to end by somebody else, and accepts no connections any more."""


class Counted(NamedTuple):
    """From the worker: its counters; `number` is that of the question, 0 for its last words."""

    number: int
    counters: Counters


class Channel:
    """One end of the pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> "Channel":
        """Take over one end of a connected pair of stream sockets."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_LIMIT))

    async def send(self, message: Any) -> None:
        """Send, and wait while the other side is slow to read.

        Raises:
            OSError: the other side is gone.
        """
        # uvloop would raise a RuntimeError
        if self._writer.is_closing():
            raise BrokenPipeError("the other side is gone")
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        self._writer.write(_LENGTH.pack(len(data)) + data)
        await self._writer.drain()

    async def receive(self) -> Any:
        """The next message; None when the other side is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return pickle.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def end(self, timeout: float) -> None:
        """Say no more, and hang up when the other side has, or after `timeout` seconds.

        Whatever the other side writes to a socket that was closed breaks its transport, and with it is lost
        what it has not read yet: the last words."""
        with contextlib.suppress(OSError, TimeoutError):
            self._writer.write_eof()
            async with asyncio.timeout(timeout):
                while await self._reader.read(1 << 16):
                    pass
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
