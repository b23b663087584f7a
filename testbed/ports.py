"""Ports for processes that cannot take port 0: each is this process's until it ends."""

import fcntl
import functools
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FIRST = 10_000
"""Below are the ports that documents, charts and programs have as defaults."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, at any address, and that nobody else is given while this process runs.

    They are not of those that the kernel gives to connections: any client of the machine can take one of
    these between the moment when it is found free and the one when it is listened on.

    Raises:
        OSError: there are not enough of them.
    """
    found = list(itertools.islice(_free(), count))
    if len(found) < count:
        raise OSError(f"fewer than {count} free ports")
    return found


@functools.cache
def _free() -> Iterator[int]:
    """Once around: no port is given twice."""
    last = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if last <= _FIRST:
        # The kernel leaves none apart.
        last = 1 << 16
    ports = range(_FIRST, last)
    # Not the first ones: somebody may just have let go of them, and clients may still ask there.
    begin = random.randrange(len(ports))
    return filter(_claim, itertools.chain(ports[begin:], ports[:begin]))


def _claim(port: int) -> bool:
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@functools.cache
def _claims() -> int:
    """A file of which each byte is a port. The kernel forgets a process's locks when the process ends."""
    path = Path(tempfile.gettempdir(), f"epp-client-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
