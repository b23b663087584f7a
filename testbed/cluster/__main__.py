"""`make cluster`: a cluster of one machine that stays up until Ctrl-C, to try things by hand."""

import asyncio
import os
import shutil
import signal
import sys

from testbed.build_cache import Unavailable
from testbed.cluster.binaries import MACHINE, ensure
from testbed.cluster.machine import missing, running_machine
from testbed.cluster.network import enter


async def _run() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_machine() as machine:
        inside = f"nsenter --net --target={os.getpid()} env KUBECONFIG={machine.kubeconfig}"
        print(
            f"the cluster is ready: {machine.plane.admin.server}\n"
            f"  KUBECONFIG={machine.kubeconfig}\n"
            f"  a shell in its network:  {inside} bash\n"
            f"  logs of containers:      {machine.folder}/logs/\n"
            f"  log of the kubelet:      {machine.folder}/kubelet.log\n"
            "Ctrl-C ends it, with all its Pods.",
            flush=True,
        )
        await stop.wait()
        print("ending all Pods ...", flush=True)


if __name__ == "__main__":
    try:
        ensure(MACHINE)
        if why := missing():
            raise Unavailable(why)
        enter("testbed.cluster")
    except Unavailable as error:
        print(f"SKIPPED: {error}", flush=True)
        sys.exit(1 if shutil.which("go") and os.getuid() == 0 else 0)
    asyncio.run(_run())
