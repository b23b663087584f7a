"""Holder: keeps duplicates of a sidecar's listening sockets, and passes them to the next sidecar.

It never accepts connections. While no sidecar serves a socket, connections queue in the kernel for
`patience` seconds. Then the socket is closed and its name removed, so that Envoy's connections are refused.
"""

import contextlib
import math
import os
import selectors
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from epp_client.hold.packets import DROP, END, FREE, KEEP, TAKEN, Packet, receive, send, trusted
from epp_client.wire.socket_file import BoundSocket, served, taken

OWNERS_ONLY = 0o600
"""Mode of the holder's own socket. Envoy shares the group of the other sockets and must not connect to this
one."""
MAX_SOCKETS = 256
MAX_CONNECTIONS = 16
_BACKLOG = 16
_POLL_INTERVAL = 0.5
"""Seconds between two checks of our own socket's name."""


class _Kept:
    """A kept socket."""

    def __init__(self, packet: Packet, keeper: "_Peer") -> None:
        assert packet.descriptor is not None
        self.path, self.inode, self.descriptor = packet.path, packet.inode, packet.descriptor
        self.keeper: _Peer | None = keeper
        """The control process whose workers listen on it; None if none does."""
        self.left = 0.0
        """When its keeper disconnected."""

    def close(self) -> None:
        """Close the descriptor. Queued connections are reset unless another process has it too."""
        os.close(self.descriptor)

    def remove(self) -> None:
        """Close the descriptor and remove the name, if it is ours."""
        self.close()
        if taken(Path(self.path), self.inode) is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


class _Peer:
    """A connected control process."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.serves = False
        """Whether it has sent KEEP for a socket. Before that it may be about to take over any socket."""


class Holder:
    """Listens on `path` until `close`."""

    def __init__(self, path: str, patience: float, clock: Callable[[], float]) -> None:
        """Bind and listen.

        Raises:
            OSError: the path cannot be bound.
        """
        self._patience = patience
        self._clock = clock
        self._held: dict[str, _Kept] = {}
        self._selector = selectors.DefaultSelector()
        self._path = path
        self._unnamed = ""
        """Why our own socket cannot be bound again; empty while its name exists."""
        self._bound = self._listening()

    def run(self) -> None:
        """Serve until an exception, such as that of a signal handler."""
        while True:
            for key, _ in self._selector.select(min(self._until_overdue(), _POLL_INTERVAL)):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            self._give_up()
            self._keep_name()

    def _listening(self) -> BoundSocket:
        bound = BoundSocket(self._path, kind=socket.SOCK_SEQPACKET, mode=OWNERS_ONLY)
        try:
            bound.socket.listen(_BACKLOG)
            bound.socket.setblocking(False)
            bound.take_place()
        except BaseException:
            bound.close()
            raise
        self._selector.register(bound.socket, selectors.EVENT_READ)
        return bound

    def _keep_name(self) -> None:
        """Bind our socket again if its name was removed. Connections stay."""
        why = ""
        if not self._bound.named:
            if served(Path(self._path), socket.SOCK_SEQPACKET):
                why = "another process has replaced it"
            else:
                try:
                    bound = self._listening()
                except OSError as error:
                    why = str(error)
                else:
                    self._selector.unregister(self._bound.socket)
                    self._bound.close()
                    self._bound = bound
                    say(f"{self._path} was removed; bound it again")
        if why and why != self._unnamed:
            say(f"{self._path} was removed and cannot be bound again: {why}")
        self._unnamed = why

    @property
    def _peers(self) -> list[_Peer]:
        return [key.data for key in self._selector.get_map().values() if key.data is not None]

    def _accept(self) -> None:
        try:
            connection, _ = self._bound.socket.accept()
        except OSError:
            # The peer has disconnected, or no descriptor is free.
            return
        connection.setblocking(False)
        if not trusted(connection) or len(self._peers) >= MAX_CONNECTIONS:
            say("refused a connection: it is of another user, or there are too many")
            connection.close()
            return
        try:
            for held in self._held.values():
                word, own = (FREE, held.descriptor) if held.keeper is None else (TAKEN, None)
                send(connection, Packet(word, held.path, held.inode, own))
            send(connection, Packet(END))
        except OSError:
            connection.close()
            return
        self._selector.register(connection, selectors.EVENT_READ, _Peer(connection))

    def _read(self, peer: _Peer) -> None:
        try:
            packet = receive(peer.connection)
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            say(f"a control process sent an invalid packet: {error}")
            packet = None
        match packet:
            case None:
                self._gone(peer)
            case Packet(word=word, descriptor=int()) if word == KEEP:
                self._keep(packet, peer)
            case Packet(word=word, path=path, descriptor=None) if word == DROP:
                if (held := self._held.pop(path, None)) is not None:
                    held.close()
            case _:
                if packet.descriptor is not None:
                    os.close(packet.descriptor)

    def _keep(self, packet: Packet, peer: _Peer) -> None:
        peer.serves = True
        new = _Kept(packet, peer)
        if (old := self._held.pop(new.path, None)) is not None:
            old.close()
        elif len(self._held) >= MAX_SOCKETS:
            say(f"cannot hold {new.path}: {MAX_SOCKETS} sockets are held already")
            new.close()
            return
        self._held[new.path] = new

    def _gone(self, peer: _Peer) -> None:
        self._selector.unregister(peer.connection)
        peer.connection.close()
        for held in self._held.values():
            if held.keeper is peer:
                held.keeper, held.left = None, self._clock()
                say(f"nobody serves {held.path}: new connections queue")

    def _overdue(self) -> list[_Kept]:
        limit = self._clock() - self._patience
        return [h for h in self._held.values() if h.keeper is None and h.left <= limit]

    def _until_overdue(self) -> float:
        """Seconds until the first unserved socket is overdue."""
        if not all(peer.serves for peer in self._peers):
            # The peer's next packet, or its end, wakes us.
            return math.inf
        left = [held.left for held in self._held.values() if held.keeper is None]
        return max(0.0, min(left) + self._patience - self._clock()) if left else math.inf

    def _give_up(self) -> None:
        if not all(peer.serves for peer in self._peers):
            # A control process is starting, and may have taken the sockets.
            return
        for held in self._overdue():
            say(f"nobody has served {held.path} for {self._patience:g} s: closing it")
            del self._held[held.path]
            held.remove()

    def close(self) -> None:
        """Close everything, and remove the names of sockets that nobody serves."""
        for held in self._held.values():
            if held.keeper is None:
                held.remove()
            else:
                held.close()
        for peer in self._peers:
            peer.connection.close()
        self._selector.close()
        self._bound.close()


def say(text: str) -> None:
    """Log a line to stderr."""
    print(f"epp-client hold: {text}", file=sys.stderr, flush=True)
