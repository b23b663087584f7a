"""`python -m testbed.cluster.kubelet --kubeconfig FILE --folder FOLDER --certificates FOLDER`: runs Pods
until SIGTERM.

Its first line is JSON, once the node is registered; then it writes to `kubelet.log`. The bridge has to be
there (`sandbox.make_bridge`).
"""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from testbed.cluster.api import Api, read_kubeconfig
from testbed.cluster.kubelet.forwarding import forwarding
from testbed.cluster.kubelet.node import NAME, Kubelet


async def _run(kubeconfig: Path, folder: Path, certificates: Path) -> None:
    async with Api(read_kubeconfig(kubeconfig)) as api, forwarding(folder, certificates):
        kubelet = Kubelet(api, folder)
        await kubelet.register()
        running = asyncio.create_task(kubelet.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        print(json.dumps({"node": NAME}), flush=True)
        sys.stdout = sys.stderr = (folder / "kubelet.log").open("w", buffering=1)
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--certificates", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(_run(options.kubeconfig, options.folder, options.certificates))
