"""Link: a TCP proxy between the sidecar and a picker that can reset, garble, slow down and block the
connection."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Coroutine
from enum import Enum, auto
from typing import Any

_READ = 65536
# SO_LINGER of 0 s makes close() send a RST.
_RESET = struct.pack("ii", 1, 0)
MAX_INTACT = 20_000
"""Upper bound of the bytes that pass before a connection is reset or garbled."""


class Mode(Enum):
    """What a link does with bytes from the picker."""

    GOOD = auto()
    RESET = auto()
    """Resets every connection after some bytes, usually within a message."""
    GARBLE = auto()
    """Inserts random bytes where an HTTP/2 frame should begin. Elsewhere they could be a valid answer with
    another body, which nobody could detect."""
    DRIP = auto()
    """Sends a few bytes at a time, with pauses."""
    BLOCK = auto()
    """Nothing passes in either direction and connections stay open, as when a switch fails."""


class Link:
    """A TCP proxy at a fixed address, in this event loop."""

    def __init__(self, seed: int, *, drip_bytes: int = 400, drip_pause: float = 0.1) -> None:
        self._drip_bytes = drip_bytes
        self.drip_pause = drip_pause
        """Seconds between two pieces."""
        self._dice = random.Random(seed)
        self._target: tuple[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._good = asyncio.Event()
        self._good.set()
        self.mode = Mode.GOOD
        self.address = ""

    def set_mode(self, mode: Mode) -> None:
        """Set the mode of open and new connections."""
        self.mode = mode
        if mode is Mode.BLOCK:
            self._good.clear()
        else:
            self._good.set()

    async def up(self, target: str) -> None:
        """Listen at the same address as before, and forward to `target`."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        mine, _, at = (self.address or "127.0.0.1:0").rpartition(":")
        self._server = await asyncio.start_server(self._connected, mine, int(at))
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname()[:2])

    async def down(self) -> None:
        """Refuse connections and reset the open ones, as a host without the picker does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            _reset(writer)
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert self._target is not None
        self._open.add(task)
        self._writers.add(writer)
        try:
            await self._good.wait()
            there, back = await asyncio.open_connection(*self._target)
            self._writers.add(back)
            try:
                await until_one_ends(self._forward(reader, back), self._hurt(there, writer))
            finally:
                self._writers.discard(back)
                back.close()
        except (OSError, asyncio.CancelledError):
            # A cancellation comes from `down`, and nobody awaits this task.
            _reset(writer)
        finally:
            self._open.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ):
            await self._good.wait()
            writer.write(data)
            await writer.drain()

    async def _hurt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        unhurt = self._dice.randrange(MAX_INTACT)
        frames = _Frames()
        while data := await reader.read(_READ):
            await self._good.wait()
            unhurt -= len(data)
            boundary = frames.boundary(data)
            if self.mode is Mode.RESET and unhurt < 0:
                writer.write(data[: self._dice.randrange(len(data))])
                _reset(writer)
                return
            if self.mode is Mode.GARBLE and unhurt < 0 and boundary is not None:
                # The first byte makes the frame's length one that HTTP/2 does not allow.
                data = data[:boundary] + b"\xff" + self._dice.randbytes(63) + data[boundary:]
            if self.mode is Mode.DRIP:
                await self._drip(data, writer)
            else:
                writer.write(data)
                await writer.drain()

    async def _drip(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(data), self._drip_bytes):
            writer.write(data[at : at + self._drip_bytes])
            await writer.drain()
            if self.mode is Mode.DRIP:
                await asyncio.sleep(self.drip_pause)


class _Frames:
    """Finds the beginnings of HTTP/2 frames in the bytes of a server."""

    def __init__(self) -> None:
        self._left = 0
        self._head = b""

    def boundary(self, data: bytes) -> int | None:
        """Read the next bytes; returns where the first frame in them begins."""
        first, at = None, 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
            else:
                if not self._head and first is None:
                    first = at
                step = min(9 - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                if len(self._head) == 9:
                    self._left, self._head = int.from_bytes(self._head[:3], "big"), b""
            at += step
        return first


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    # The connection is closed already.
    if sock is None:
        return
    with contextlib.suppress(OSError):
        # A negative descriptor means that the socket is closed.
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def until_one_ends(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both ways of a connection. The first to end ends the other."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
