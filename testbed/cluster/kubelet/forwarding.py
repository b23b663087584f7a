"""Port-forwards into Pods: `go/port-forward` serves them, and finds the networks of the Pods here."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from testbed.cluster.binaries import binary
from testbed.cluster.kubelet.sandbox import NODE
from testbed.process import Process

PORT = 10250
"""Where the API server asks a kubelet."""


def _networks(folder: Path) -> Path:
    return folder / "networks"


@contextmanager
def forwarded(folder: Path, namespace: str, pod: str, network: Path) -> Iterator[None]:
    """The Pod's ports can be forwarded until the end of the block."""
    link = _networks(folder) / f"{namespace}_{pod}"
    # One of the Pod of that name before, which is still ending.
    link.unlink(missing_ok=True)
    link.symlink_to(network)
    try:
        yield
    finally:
        if link.is_symlink() and link.readlink() == network:
            link.unlink()


@asynccontextmanager
async def forwarding(folder: Path, certificates: Path) -> AsyncIterator[None]:
    """Serve port-forwards until the end of the block.

    Raises:
        Unavailable: the program is missing.
        ProcessFailed: it did not become ready.
    """
    networks = _networks(folder)
    networks.mkdir()
    process, _ = await Process.ready(
        str(binary("port-forward")), f"{NODE}:{PORT}", str(certificates), str(networks)
    )
    try:
        yield
    finally:
        await process.stop()
