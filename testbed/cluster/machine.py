"""A Kubernetes cluster of one machine: control plane, controllers, a kubelet, addresses of Services.

Everything is in the network namespace of this process, which `testbed.cluster.network.enter` made: nothing
gets in or out. It needs root and the programs `MACHINE` of `binaries`.
"""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.cluster.api import Api
from testbed.cluster.control_plane import ControlPlane, running_control_plane
from testbed.cluster.kubelet.sandbox import NODE, make_bridge
from testbed.container import unavailable
from testbed.process import Process

_STOP = 20.0
"""Seconds for the kubelet to end all Pods."""


@dataclass(frozen=True)
class Machine:
    """A running cluster."""

    plane: ControlPlane
    api: Api
    """The administrator."""
    kubeconfig: Path
    """Of the administrator."""
    folder: Path
    kubelet: Process
    services: Process

    def log(self, namespace: str, pod: str, container: str) -> str:
        """The output of a container so far. `pod` may be the beginning of its name."""
        found = sorted((self.folder / "logs").glob(f"{namespace}_{pod}*_{container}.log"))
        return "".join(path.read_text(errors="replace") for path in found)


def missing() -> str:
    """Why there can be no such cluster here; empty if there can be one."""
    if why := unavailable():
        return why
    programs = ("ip", "nsenter", "unshare", "umount")
    absent = next((f"there is no {p} on PATH" for p in programs if shutil.which(p) is None), "")
    return absent or _without_links()


_LINKS = "ip link add epp-br type bridge && ip link add epp-a type veth peer name epp-b"


def _without_links() -> str:
    """Why Pods cannot have network links; empty if they can. Tried in a namespace that is gone at once."""
    tried = subprocess.run(
        ["unshare", "--net", "sh", "-c", _LINKS], capture_output=True, text=True, check=False
    )
    return f"no bridge and veth here: {tried.stderr.strip()}" if tried.returncode else ""


async def _unmount_below(folder: Path) -> None:
    """Unmount what is mounted in a folder."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in reversed([path for path in mounts if path.startswith(f"{folder}/")]):
        process = await asyncio.create_subprocess_exec("umount", "-l", path)
        await process.wait()


@asynccontextmanager
async def running_machine() -> AsyncIterator[Machine]:
    """Run the cluster until the end of the block. Then all its processes, mounts and links are gone.

    Raises:
        Unavailable: the programs are missing.
        ProcessFailed: one did not become ready; the text has the end of its log.
        NetworkFailed: the bridge cannot be made.
    """
    await make_bridge()
    async with AsyncExitStack() as owner:
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-pods-")))
        # A kubelet that had to be killed leaves its mounts.
        owner.push_async_callback(_unmount_below, folder)
        # Users of containers pass through it.
        folder.chmod(0o755)
        plane = await owner.enter_async_context(running_control_plane(host=NODE, workloads=True))
        api = await owner.enter_async_context(Api(plane.admin))
        kubeconfig = plane.admin.write(folder / "admin.kubeconfig")
        access = ("--kubeconfig", str(kubeconfig))
        (services, _), (kubelet, _) = await asyncio.gather(
            Process.python("testbed.cluster.services", *access),
            Process.python(
                *("testbed.cluster.kubelet", *access, "--folder", str(folder)),
                *("--certificates", str(plane.folder)),
            ),
        )
        owner.push_async_callback(services.stop)
        owner.push_async_callback(kubelet.stop, _STOP)
        yield Machine(plane, api, kubeconfig, folder, kubelet, services)
