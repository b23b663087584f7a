"""A holder as a process, and control processes as it sees them."""

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from epp_client.hold.packets import DROP, END, KEEP, Packet, receive, send
from epp_client.wire.socket_file import BoundSocket


class Peer:
    """A control process as the holder sees it."""

    def __init__(self, path: Path) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(20)
        self.connection.connect(str(path))
        self.greeting: list[Packet] = []
        while (packet := receive(self.connection)) is not None and packet.word != END:
            self.greeting.append(packet)

    def keep(self, bound: BoundSocket, path: Path) -> None:
        send(self.connection, Packet(KEEP, str(path), bound.inode, bound.socket.fileno()))

    def drop(self, path: Path) -> None:
        send(self.connection, Packet(DROP, str(path)))

    def hangs_up(self) -> None:
        """And everything it has is closed, as when it dies."""
        self.connection.close()

    def close(self) -> None:
        self.connection.close()
        while self.greeting:
            if (descriptor := self.greeting.pop().descriptor) is not None:
                os.close(descriptor)

    @property
    def offers(self) -> dict[str, str]:
        return {packet.path: packet.word for packet in self.greeting}


class Running:
    """A holder's process."""

    def __init__(self, folder: Path, patience: float, owner: ExitStack) -> None:
        self.path = folder / "hold.sock"
        self.folder = folder
        self._owner = owner
        self.process = subprocess.Popen(
            [sys.executable, "-m", "epp_client.hold", str(self.path), str(patience)],
            stderr=subprocess.PIPE,
            text=True,
        )
        owner.callback(self.process.communicate)
        owner.callback(self.process.kill)
        assert self.process.stderr is not None
        assert "listening on" in self.process.stderr.readline()

    def peer(self) -> Peer:
        made = Peer(self.path)
        self._owner.callback(made.close)
        return made

    def bind(self, name: str) -> tuple[Path, BoundSocket]:
        """A socket that somebody listens on."""
        path = self.folder / name
        bound = BoundSocket(str(path))
        self._owner.callback(bound.socket.close)
        bound.socket.listen()
        bound.take_place()
        return path, bound

    def until_offered(self, offers: dict[Path, str]) -> Peer:
        """The first peer that is greeted with just these."""
        wanted = {str(path): word for path, word in offers.items()}
        while True:
            peer = self.peer()
            if peer.offers == wanted:
                return peer
            peer.close()
            time.sleep(0.01)
