"""What a holder of sockets and a control process say to each other: packets, with a descriptor or without.

On a SOCK_SEQPACKET, so that a packet comes whole, with its descriptor, or not at all. A holder says first
what it has (`FREE` and `TAKEN`, then `END`), and nothing after that; a control process says `KEEP` and
`DROP`.
Standard library alone: a holder is to be small.
"""

import os
import socket
import struct
from typing import Final, NamedTuple

FREE: Final = "free"
"""From the holder: a socket that no living control process keeps, with its descriptor."""
TAKEN: Final = "taken"
"""From the holder: one that another control process keeps; no descriptor."""
END: Final = "end"
"""From the holder: that was all."""
KEEP: Final = "keep"
"""To the holder: somebody listens on this one; its descriptor comes with it."""
DROP: Final = "drop"
"""To the holder: forget the socket of this name."""

LARGEST: Final = 4096
"""Bytes of a packet."""
_CREDENTIALS: Final = struct.Struct("3i")


class Packet(NamedTuple):
    """One packet. Whoever receives it owns the descriptor."""

    word: str
    path: str = ""
    """The socket's name in the file system."""
    inode: int = 0
    """Of that name: whether it still leads to this socket."""
    descriptor: int | None = None


def send(connection: socket.socket, packet: Packet) -> None:
    """Send it, and a duplicate of its descriptor.

    Raises:
        OSError: the other side has gone, or does not read.
    """
    data = f"{packet.word} {packet.inode} {packet.path}".encode()
    descriptors = [] if packet.descriptor is None else [packet.descriptor]
    socket.send_fds(connection, [data], descriptors)


def receive(connection: socket.socket) -> Packet | None:
    """The next packet; None when the other side has gone.

    Raises:
        BlockingIOError: there is none yet.
        ValueError: it is not one of ours.
    """
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, LARGEST, 1)
    except ConnectionError:
        return None
    descriptor = descriptors[0] if descriptors else None
    if descriptor is not None:
        # `recv_fds` has a parameter for that, and ignores it
        os.set_inheritable(descriptor, False)
    if not data:
        return None
    try:
        word, inode, path = data.decode().split(" ", 2)
        return Packet(word, path, int(inode), descriptor)
    except ValueError:
        if descriptor is not None:
            os.close(descriptor)
        raise


def trusted(connection: socket.socket) -> bool:
    """Whether the other side runs as our own user, or as root."""
    size = _CREDENTIALS.size
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return _CREDENTIALS.unpack(data)[1] in (0, os.geteuid())
