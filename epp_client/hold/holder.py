"""Holder: has duplicates of a sidecar's listening sockets, and gives them to the next sidecar.

It never accepts. What connects while there is no sidecar waits in the kernel's queue, for `patience`
seconds; then the socket is closed and its name removed, so that Envoy refuses instead of waiting.
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
"""Of the holder's own socket: Envoy, which shares the group of the others, has no business there."""
MAX_SOCKETS = 256
MAX_CONNECTIONS = 16
_BACKLOG = 16
_LOOK = 0.5
"""Seconds between two looks whether our own name is still there."""


class _Kept:
    """A socket of somebody's."""

    def __init__(self, packet: Packet, keeper: "_Peer") -> None:
        assert packet.descriptor is not None
        self.path, self.inode, self.descriptor = packet.path, packet.inode, packet.descriptor
        self.keeper: _Peer | None = keeper
        """Whose workers listen on it; None: nobody's."""
        self.left = 0.0
        """When there was nobody any more."""

    def close(self) -> None:
        """Let go of it. What waits there is reset, unless somebody else has it too."""
        os.close(self.descriptor)

    def remove(self) -> None:
        """And of its name."""
        self.close()
        if taken(Path(self.path), self.inode) is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


class _Peer:
    """A control process that is connected."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.serves = False
        """It has said so of a socket. Until then it may be about to take over any."""


class Holder:
    """Serves on `path` from `run` to `close`."""

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
        """Why our own name cannot be bound again; empty while it is there."""
        self._bound = self._listening()

    def run(self) -> None:
        """Hold until something is raised, by a signal's handler say."""
        while True:
            for key, _ in self._selector.select(min(self._rest(), _LOOK)):
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
        """Bind our name again if it was removed from under us; who is connected stays."""
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
                    say(f"{self._path} was removed and is bound again")
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
            # it has gone again, or there is no descriptor left
            return
        connection.setblocking(False)
        if not trusted(connection) or len(self._peers) >= MAX_CONNECTIONS:
            say("a connection of another user's, or too many, is refused")
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
            say(f"a control process is not understood: {error}")
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
            say(f"{new.path} is not held: there are {MAX_SOCKETS} already")
            new.close()
            return
        self._held[new.path] = new

    def _gone(self, peer: _Peer) -> None:
        self._selector.unregister(peer.connection)
        peer.connection.close()
        for held in self._held.values():
            if held.keeper is peer:
                held.keeper, held.left = None, self._clock()
                say(f"nobody serves {held.path}: what connects waits")

    def _overdue(self) -> list[_Kept]:
        limit = self._clock() - self._patience
        return [h for h in self._held.values() if h.keeper is None and h.left <= limit]

    def _rest(self) -> float:
        """Seconds until somebody's patience ends."""
        if not all(peer.serves for peer in self._peers):
            # its next word, or its end, wakes us
            return math.inf
        left = [held.left for held in self._held.values() if held.keeper is None]
        return max(0.0, min(left) + self._patience - self._clock()) if left else math.inf

    def _give_up(self) -> None:
        if not all(peer.serves for peer in self._peers):
            # one starts, and may have taken them already
            return
        for held in self._overdue():
            say(f"nobody has served {held.path} for {self._patience:g} s: it refuses")
            del self._held[held.path]
            held.remove()

    def close(self) -> None:
        """Let go of everything; what nobody serves loses its name."""
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
    """A line of log."""
    print(f"epp-client hold: {text}", file=sys.stderr, flush=True)
