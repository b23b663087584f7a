"""Hold: the control process's connection to a holder, which keeps duplicates of its listening sockets.

The first connection takes the sockets of an earlier sidecar. A holder that was away or restarted gets all
current sockets once it answers. Requests never wait for any of this.
"""

import asyncio
import contextlib
import socket
from pathlib import Path

import structlog

from epp_client.hold.packets import DROP, END, FREE, KEEP, Packet, receive, send, trusted
from epp_client.wire.socket_file import BoundSocket, Held

log = structlog.get_logger(__name__)

GREETING = 5.0
"""Seconds for a holder to send its list."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 2.0


class NoHolder(Exception):
    """No holder is usable; the text tells why."""


class Hold:
    """The connection, from `open` to `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: socket.socket | None = None
        self._left: dict[str, BoundSocket] = {}
        """Sockets of an earlier sidecar, until they are taken."""
        self._kept: dict[str, BoundSocket] = {}
        """Sockets that our workers listen on, sent again to a restarted holder."""
        self._task: asyncio.Task[None] | None = None
        self._why = ""

    @property
    def trouble(self) -> str:
        """Why the sockets would not outlive this process; empty if they would."""
        return self._why

    async def open(self) -> None:
        """Connect and take the sockets of an earlier sidecar, if there is a holder; keep connected from now
        on."""
        try:
            self._joined(await self._connect(take=True))
        except NoHolder as error:
            self._lost(error)
        self._task = asyncio.create_task(self._run())

    def take(self, path: Path) -> BoundSocket | None:
        """The earlier sidecar's socket of this path, which the caller owns; None if there is none."""
        return self._left.pop(str(path), None)

    def settle(self) -> None:
        """Close the sockets that were not taken: the earlier sidecar had other paths."""
        while self._left:
            path, bound = self._left.popitem()
            log.warning("closing an unused socket of an earlier sidecar", socket=path)
            bound.close()
            self._say(Packet(DROP, path))

    def keep(self, path: Path, bound: BoundSocket) -> None:
        """Make the holder keep a socket that listens under its name."""
        self._kept[str(path)] = bound
        self._say(Packet(KEEP, str(path), bound.inode, bound.socket.fileno()))

    def drop(self, path: Path) -> None:
        """Make the holder close the socket."""
        if self._kept.pop(str(path), None) is not None:
            self._say(Packet(DROP, str(path)))

    @property
    def holds(self) -> bool:
        """Whether a holder is connected, and so has all kept sockets."""
        return self._connection is not None

    async def close(self) -> None:
        """Disconnect. The holder keeps the sockets, also after this process has closed them."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._disconnect()
        for bound in self._left.values():
            bound.leave()
        self._left.clear()

    # --- the connection ---

    async def _run(self) -> None:
        """Keep a connection, and connect again when it is lost."""
        wait = _FIRST_BACKOFF
        while True:
            if self._connection is not None:
                await _ended(self._connection)
                self._disconnect()
                self._lost(NoHolder("it has disconnected"))
                wait = _FIRST_BACKOFF
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_BACKOFF)
            try:
                self._joined(await self._connect(take=False))
            except NoHolder as error:
                self._lost(error)

    def _joined(self, connection: socket.socket) -> None:
        self._connection, self._why = connection, ""
        log.info("the holder keeps the sockets when this process ends", holder=str(self._path))
        for path, bound in self._kept.items():
            self._say(Packet(KEEP, path, bound.inode, bound.socket.fileno()))

    def _lost(self, error: NoHolder) -> None:
        why = f"no holder at {self._path}: {error}; a restart would cost requests"
        if why != self._why:
            log.warning(
                "no holder: the sockets are lost when this process ends",
                holder=str(self._path),
                error=str(error),
            )
        self._why = why

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _say(self, packet: Packet) -> None:
        if self._connection is not None:
            try:
                send(self._connection, packet)
            except OSError as error:
                # `_run` notices the shutdown and connects again.
                log.error("cannot send to the holder", error=str(error))
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    async def _connect(self, *, take: bool) -> socket.socket:
        """Connect, and read the holder's list. Raises NoHolder."""
        try:
            with contextlib.ExitStack() as unless_greeted:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                unless_greeted.enter_context(connection)
                connection.setblocking(False)
                connection.connect(str(self._path))
                if not trusted(connection):
                    raise NoHolder("it runs as another user")
                async with asyncio.timeout(GREETING):
                    while (packet := await _packet(connection)) is not None and packet.word != END:
                        self._greeted(packet, take)
                if packet is None:
                    raise NoHolder("it disconnected")
                unless_greeted.pop_all()
                return connection
        except TimeoutError as error:
            raise NoHolder("it does not answer") from error
        except (OSError, ValueError) as error:
            raise NoHolder(str(error)) from error

    def _greeted(self, packet: Packet, take: bool) -> None:
        if packet.descriptor is None:
            return
        sock = socket.socket(fileno=packet.descriptor)
        if packet.word == FREE and take:
            # The directory of the socket may be missing.
            with contextlib.suppress(OSError):
                self._left[packet.path] = BoundSocket(packet.path, held=Held(sock, packet.inode))
                return
        sock.close()


async def _packet(connection: socket.socket) -> Packet | None:
    while True:
        try:
            return receive(connection)
        except BlockingIOError:
            await _readable(connection)


async def _ended(connection: socket.socket) -> None:
    """Wait until the holder disconnects. It sends nothing after its list."""
    with contextlib.suppress(OSError, ValueError):
        while await _packet(connection) is not None:
            pass


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(connection, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(connection)
