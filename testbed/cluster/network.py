"""A network of the tier's own: nothing in it can reach anybody else, and nobody else can reach it.

The API server takes no loopback address in an EndpointSlice, and the real pickers listen on every address.
In a network namespace a documentation address (RFC 5737) on `lo` serves for both.
"""

import os
import shutil
import subprocess
import sys

from testbed.cluster.binaries import Unavailable

ADDRESS = "192.0.2.10"
_INSIDE = "EPP_CLIENT_TEST_NETWORK"
_SCRIPT = f'ip link set lo up && ip addr add {ADDRESS}/32 dev lo && exec "$@"'


def enter(module: str) -> None:
    """Become `python -m module` with the same arguments in a namespace, unless this is in one.

    Raises:
        Unavailable: this machine, or this user, cannot make one.
    """
    if _INSIDE in os.environ:
        return
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        raise Unavailable("a network namespace needs unshare (util-linux) and ip (iproute2)")
    unshare = ["unshare", "--net", *([] if os.getuid() == 0 else ["--map-root-user"])]
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Unavailable(f"no network namespace can be made: {tried.stderr.strip()}")
    command = [*unshare, "sh", "-c", _SCRIPT, "sh", sys.executable, "-m", module, *sys.argv[1:]]
    os.execvpe(command[0], command, {**os.environ, _INSIDE: ADDRESS})
