"""Runs the cluster tests in a network namespace without connections to the outside, with mounts of its own.

The API server accepts no loopback address in an EndpointSlice, and the real pickers listen on all
addresses. In a namespace, a documentation address (RFC 5737) on `lo` solves both.
"""

import os
import shutil
import subprocess
import sys

from testbed.build_cache import Unavailable

ADDRESS = "192.0.2.10"
_INSIDE = "EPP_CLIENT_TEST_NETWORK"
_SCRIPT = f'ip link set lo up && ip addr add {ADDRESS}/32 dev lo && exec "$@"'


def enter(module: str) -> None:
    """Execute `python -m module` with the same arguments in a namespace, unless this process is in one.

    Raises:
        Unavailable: a namespace cannot be created.
    """
    if _INSIDE in os.environ:
        return
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        raise Unavailable("a network namespace needs unshare (util-linux) and ip (iproute2)")
    unshare = ["unshare", "--net", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Unavailable(f"cannot create a network namespace: {tried.stderr.strip()}")
    command = [*unshare, "sh", "-c", _SCRIPT, "sh", sys.executable, "-m", module, *sys.argv[1:]]
    os.execvpe(command[0], command, {**os.environ, _INSIDE: ADDRESS})
