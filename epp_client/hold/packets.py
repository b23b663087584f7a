"""The packets between a holder and a control process, with or without a descriptor.

The socket is a SOCK_SEQPACKET, so packet and descriptor arrive together or not at all. A holder first sends
what it has (`FREE` and `TAKEN`, then `END`), and nothing after that; a control process sends `KEEP` and
`DROP`. Only the standard library is used, to keep the holder small.
"""

import os
import socket
import struct
from typing import Final, NamedTuple

FREE: Final = "free"
"""From the holder: a socket that no control process keeps, with its descriptor."""
TAKEN: Final = "taken"
"""From the holder: a socket that another control process keeps, without descriptor."""
END: Final = "end"
"""From the holder: end of the list."""
KEEP: Final = "keep"
"""To the holder: keep this socket, which workers listen on; with its descriptor."""
DROP: Final = "drop"
"""To the holder: close the socket with this name."""

LARGEST: Final = 4096
"""Bytes of a packet."""
_CREDENTIALS: Final = struct.Struct("3i")


class Packet(NamedTuple):
    """One packet. The receiver owns the descriptor."""

    word: str
    path: str = ""
    """The socket's name in the file system."""
    inode: int = 0
    """Inode of that name, to check that it still leads to this socket."""
    descriptor: int | None = None


def send(connection: socket.socket, packet: Packet) -> None:
    """Send a packet with a duplicate of its descriptor.

    Raises:
        OSError: the peer has disconnected, or does not read.
    """
    data = f"{packet.word} {packet.inode} {packet.path}".encode()
    descriptors = [] if packet.descriptor is None else [packet.descriptor]
    socket.send_fds(connection, [data], descriptors)


def receive(connection: socket.socket) -> Packet | None:
    """The next packet; None if the peer has disconnected.

    Raises:
        BlockingIOError: no packet has arrived.
        ValueError: the packet is invalid.
    """
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, LARGEST, 1)
    except ConnectionError:
        return None
    descriptor = descriptors[0] if descriptors else None
    if descriptor is not None:
        # `recv_fds` ignores its parameter for this.
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
    """Whether the peer runs as our user or as root."""
    size = _CREDENTIALS.size
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return _CREDENTIALS.unpack(data)[1] in (0, os.geteuid())
