"""Runs a command as a container does, without a container runtime: as process 1 of a PID namespace, on a
root file system of its own, as a user without privileges, with no variable of ours.

The base image is the host's: its folders of programs are mounted. It needs root, util-linux and coreutils.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from testbed.process import Process

BASE = ("/bin", "/lib", "/lib64", "/sbin", "/usr")
"""The base image."""
FILES = ("/etc/hosts", "/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/resolv.conf")
_SCRIPT = r"""
set -eu
root=$1 user=$2 groups=$3 kind_of_root=$4; shift 4
mount -t tmpfs -o mode=0755 tmpfs "$root"
while [ "$1" != -- ]; do
  kind=$1 source=$2 target=$root$3; shift 3
  if [ -L "$source" ]; then mkdir -p "$(dirname "$target")"; cp -P "$source" "$target"; continue; fi
  if [ -d "$source" ]; then mkdir -p "$target"
  else mkdir -p "$(dirname "$target")"; : > "$target"; fi
  mount --rbind "$source" "$target"
  [ "$kind" = rw ] || mount -o remount,bind,ro "$target"
done
shift
mkdir -p "$root/proc"
[ -e "$root/tmp" ] || mkdir -m 1777 "$root/tmp"
mount -t proc proc "$root/proc"
[ "$kind_of_root" = rw ] || mount -o remount,ro "$root"
# A change of the user clears the signal of --kill-child.
exec chroot --userspec="$user" --groups="$groups" "$root" setpriv --pdeathsig KILL "$@"
"""


@dataclass
class Container:
    """What a Pod's spec and its image say of one container."""

    command: Sequence[str]
    environment: Mapping[str, str]
    read_only: Mapping[str, Path] = field(default_factory=dict)
    """Paths in the container, and what is mounted there."""
    writable: Mapping[str, Path] = field(default_factory=dict)
    user: str = "65532:65532"
    groups: Sequence[int] = ()
    """More groups of the user."""
    read_only_root: bool = True
    network: Path | None = None
    """The network namespace of its Pod; by default it is in ours."""


def unavailable() -> str:
    """Why no container can be run here; empty if one can."""
    if os.getuid() != 0:
        return "it needs root, to mount a root file system"
    for program in ("unshare", "mount", "chroot", "setpriv"):
        if shutil.which(program) is None:
            return f"there is no {program} on PATH"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no mounts: {tried.stderr.strip()}" if tried.returncode else ""


def python_mounts(*more: Path) -> dict[str, Path]:
    """The Python that runs this, and `more` folders, at their own places."""
    places = (Path(sys.base_prefix), *more)
    return {str(path): path for path in places if not str(path).startswith(BASE)}


@dataclass
class Running:
    """A container that runs."""

    process: Process

    @property
    def init(self) -> psutil.Process:
        """Its process 1, which gets the Pod's SIGTERM."""
        found = psutil.Process(self.process.pid)
        while found.name() in ("unshare", "sh"):
            [found] = found.children()
        return found


@contextmanager
def prepared(container: Container) -> Iterator[list[str]]:
    """The command that runs it. It exits with the container's exit code."""
    with tempfile.TemporaryDirectory(prefix="container-") as root:
        mounts: list[str] = []
        for path in (*BASE, *FILES):
            if Path(path).exists():
                mounts += ["ro", path, path]
        mounts += ["rw", "/dev", "/dev"]
        # A read-only mount may be below a writable one.
        for target, source in container.writable.items():
            mounts += ["rw", str(source), target]
        for target, source in container.read_only.items():
            mounts += ["ro", str(source), target]
        # runc sets HOME of a user who is not in /etc/passwd.
        variables = {"HOME": "/", **container.environment}
        environment = [f"{name}={value}" for name, value in variables.items()]
        groups = ",".join(map(str, container.groups))
        kind_of_root = "ro" if container.read_only_root else "rw"
        entered = ["nsenter", f"--net={container.network}"] if container.network else []
        yield [
            *(*entered, "unshare", "--mount", "--pid", "--fork", "--kill-child"),
            *("sh", "-c", _SCRIPT, "sh", root, container.user, groups, kind_of_root, *mounts, "--"),
            *("env", "-i", *environment, *container.command),
        ]
