"""Why Envoy (uid 101) may connect to what the sidecar (uid 65532) binds, and nobody else may.

The volume is made here as the kubelet makes an emptyDir of a Pod with `fsGroup`: that group's, setgid.
"""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.deploy.test_kubernetes import INSTALLS, envoy, pod, sidecar

# Each process starts as root, as the interpreter may lie where only root can look, and becomes the user.
BECOME = """
import os, socket, sys
from epp_client.wire.socket_file import SocketFile
path, user, *groups = sys.argv[1], *map(int, sys.argv[2:])
os.setgroups(groups)
os.setresgid(user, user, user)
os.setresuid(user, user, user)
"""
BIND = (
    BECOME
    + """
file = SocketFile(path)
listener = socket.socket(socket.AF_UNIX)
file.bind(listener.bind)
listener.listen()
file.take_place()
print("listening", flush=True)
sys.stdin.read()
"""
)
CONNECT = BECOME + "socket.socket(socket.AF_UNIX).connect(path)"
CONNECT_AS_WE_ARE = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


@pytest.fixture
def volume() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can take on the uids of the two images")
    with TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "sockets"
        path.mkdir()
        os.chown(path, 0, pod("base")["securityContext"]["fsGroup"])
        path.chmod(0o2777)
        yield path


def command(script: str, path: Path, user: int, *groups: int) -> list[str]:
    return [sys.executable, "-c", script, str(path), *map(str, (user, *groups))]


def connect(path: Path, user: int, *groups: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(CONNECT, path, user, *groups), capture_output=True, text=True, timeout=30
    )


def test_envoy_reaches_the_sidecars_socket_through_the_pods_group(volume: Path) -> None:
    group = pod("base")["securityContext"]["fsGroup"]
    ours, theirs = (c["securityContext"]["runAsUser"] for c in (sidecar("base"), envoy("base")))
    path = volume / "ext-proc.sock"
    with subprocess.Popen(
        command(BIND, path, ours, group), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sidecar_process:
        assert sidecar_process.stdout is not None
        assert sidecar_process.stdout.readline() == "listening\n"
        made = path.stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (ours, group, 0o660)
        in_the_pod = connect(path, theirs, group)
        elsewhere = connect(path, theirs)
        sidecar_process.communicate("", timeout=30)
    assert in_the_pod.returncode == 0, in_the_pod.stderr
    assert "PermissionError" in elsewhere.stderr


def test_a_read_only_mount_is_enough_to_connect(volume: Path) -> None:
    """Envoy's mount is read-only: it can connect, and cannot put a socket of its own in the place."""
    path = volume / "ext-proc.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        connecting = shlex.join([sys.executable, "-c", CONNECT_AS_WE_ARE, str(path)])
        script = (
            f"mount --bind {volume} {volume} && mount -o remount,ro,bind {volume} || exit 77; "
            f"{connecting} && ! touch {volume}/new 2>/dev/null"
        )
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=30
        )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", INSTALLS)
def test_every_install_shares_the_volume_that_way(name: str) -> None:
    assert pod(name)["securityContext"]["fsGroup"] == sidecar(name)["securityContext"]["runAsGroup"]
    mounts = {
        container["name"]: mount
        for container in (sidecar(name), envoy(name))
        for mount in container["volumeMounts"]
        if mount["name"] == "epp-client-sockets"
    }
    assert mounts["envoy"]["readOnly"] is True
    assert "readOnly" not in mounts["epp-client"]
