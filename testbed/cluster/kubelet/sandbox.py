"""The network of Pods: a bridge, and for each Pod a network namespace with an address on it.

The addresses are documentation addresses (RFC 5737). This process has to be in a network namespace of its
own, which has no way out.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.process import Process

BRIDGE = "pods"
NETWORK = "203.0.113."
NODE = f"{NETWORK}1"
"""The address of the node, where the API server listens."""
_OWN_NETWORK = "/proc/self/ns/net"


class NetworkFailed(Exception):
    """A command of the network failed; the text has its output."""


async def make_bridge() -> None:
    """Make the bridge with the node's address. It goes with our network namespace.

    Raises:
        NetworkFailed: it cannot be made.
    """
    await run(f"ip link add {BRIDGE} type bridge && ip addr add {NODE}/24 dev {BRIDGE} && "
              f"ip link set {BRIDGE} up")  # fmt: skip


async def run(script: str) -> None:
    """Run a shell script.

    Raises:
        NetworkFailed: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", script), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise NetworkFailed(f"{script}: {out.decode().strip()}")


class Addresses:
    """The free addresses of Pods. One that is free again is taken last."""

    def __init__(self) -> None:
        self._free = [f"{NETWORK}{number}" for number in range(10, 255)]

    @contextmanager
    def leased(self) -> Iterator[str]:
        """An address for the time of a Pod.

        Raises:
            NetworkFailed: all are taken.
        """
        if not self._free:
            raise NetworkFailed("all addresses of Pods are taken")
        address = self._free.pop(0)
        try:
            yield address
        finally:
            self._free.append(address)


@dataclass(frozen=True)
class Sandbox:
    """A Pod's network."""

    address: str
    network: Path
    """Its network namespace."""


@asynccontextmanager
async def running_sandbox(address: str) -> AsyncIterator[Sandbox]:
    """The network namespace of a Pod. A process holds it, and both ends of its link go with it.

    Raises:
        NetworkFailed: it cannot be made.
    """
    holder = await Process.start("unshare", "--net", "sleep", "infinity")
    try:
        network = Path(f"/proc/{holder.pid}/ns/net")
        own = os.readlink(_OWN_NETWORK)
        while os.readlink(network) == own:
            await asyncio.sleep(0.005)
        link = f"pod{address.rpartition('.')[2]}"
        inside = (
            "ip link set lo up && ip link set eth0 up && "
            f"ip addr add {address}/24 dev eth0 && ip route add default via {NODE} && "
            # As containerd does: each user may bind port 80.
            "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start"
        )
        await run(
            # The last Pod's link can still be there.
            f"ip link del {link} 2> /dev/null; "
            f"ip link add {link} type veth peer name eth0 netns {holder.pid} && "
            f"ip link set {link} master {BRIDGE} up && nsenter --net={network} sh -c '{inside}'"
        )
        yield Sandbox(address, network)
    finally:
        with contextlib.suppress(NetworkFailed):
            await run(f"ip link del pod{address.rpartition('.')[2]}")
        await holder.kill()
