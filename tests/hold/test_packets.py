"""What a holder and a control process hand each other."""

import os
import socket

from epp_client.hold.packets import KEEP, Packet, receive, send


def test_a_descriptor_comes_whole_and_is_not_handed_on_to_children() -> None:
    """uvloop closes nothing for a child: a worker had all sockets of its siblings, and kept them open."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.socket(socket.AF_UNIX) as listening:
        send(ours, Packet(KEEP, "/run/a b.sock", 7, listening.fileno()))
        packet = receive(theirs)
    assert packet is not None
    assert packet.descriptor is not None
    assert packet[:3] == (KEEP, "/run/a b.sock", 7)
    try:
        assert not os.get_inheritable(packet.descriptor)
    finally:
        os.close(packet.descriptor)
