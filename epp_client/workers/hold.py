"""Hold: the control process's connection to a holder, which has its listening sockets as well.

What the sidecar before left behind is taken up with the first connection; a holder that is away, or starts
anew, is told of what is here as soon as it answers. No request waits for any of that.
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
"""Seconds for a holder to say what it has."""
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 2.0


class NoHolder(Exception):
    """None can be reached; the text says why."""


class Hold:
    """From `open` to `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: socket.socket | None = None
        self._left: dict[str, BoundSocket] = {}
        """What the sidecar before left behind, until it is taken."""
        self._kept: dict[str, BoundSocket] = {}
        """What workers of ours listen on: said again to a holder that starts anew."""
        self._task: asyncio.Task[None] | None = None
        self._why = ""

    @property
    def trouble(self) -> str:
        """Why the sockets would not outlive this process; empty when they would."""
        return self._why

    async def open(self) -> None:
        """Take up what was left behind, if there is a holder; from now on keep to it."""
        try:
            self._joined(await self._connect(take=True))
        except NoHolder as error:
            self._lost(error)
        self._task = asyncio.create_task(self._run())

    def take(self, path: Path) -> BoundSocket | None:
        """The socket of this name that was left behind, once."""
        return self._left.pop(str(path), None)

    def settle(self) -> None:
        """All that is needed has been taken: the rest is of a sidecar with other sockets, and goes."""
        while self._left:
            path, bound = self._left.popitem()
            log.warning("a socket of an earlier sidecar is given up", socket=path)
            bound.close()
            self._say(Packet(DROP, path))

    def keep(self, path: Path, bound: BoundSocket) -> None:
        """Somebody listens on it, and it has its name."""
        self._kept[str(path)] = bound
        self._say(Packet(KEEP, str(path), bound.inode, bound.socket.fileno()))

    def drop(self, path: Path) -> None:
        """It is not to outlive us any more."""
        if self._kept.pop(str(path), None) is not None:
            self._say(Packet(DROP, str(path)))

    @property
    def holds(self) -> bool:
        """Whether a holder has all that is kept, and all that it gave us."""
        return self._connection is not None

    async def close(self) -> None:
        """Hang up. What is kept is the holder's alone, as soon as its owner has let go of it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        # nobody waits for it any more
        self._disconnect()
        for bound in self._left.values():
            bound.leave()
        self._left.clear()

    # --- the connection ---

    async def _run(self) -> None:
        """Have a connection, and another when it is lost."""
        wait = _FIRST_BACKOFF
        while True:
            if self._connection is not None:
                await _ended(self._connection)
                self._disconnect()
                self._lost(NoHolder("it has gone"))
                wait = _FIRST_BACKOFF
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_BACKOFF)
            try:
                self._joined(await self._connect(take=False))
            except NoHolder as error:
                self._lost(error)

    def _joined(self, connection: socket.socket) -> None:
        self._connection, self._why = connection, ""
        log.info("the sockets outlive this process", holder=str(self._path))
        for path, bound in self._kept.items():
            self._say(Packet(KEEP, path, bound.inode, bound.socket.fileno()))

    def _lost(self, error: NoHolder) -> None:
        why = f"no holder at {self._path}: {error}; a restart would cost requests"
        if why != self._why:
            log.warning(
                "the sockets do not outlive this process", holder=str(self._path), error=str(error)
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
                # `_run` sees the end of it
                log.error("the holder does not listen", error=str(error))
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    async def _connect(self, *, take: bool) -> socket.socket:
        """A connection whose greeting is over. Raises NoHolder."""
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
                    raise NoHolder("it hung up")
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
            # its folder has gone
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
    """Until the other side has hung up: after its greeting a holder says nothing."""
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
