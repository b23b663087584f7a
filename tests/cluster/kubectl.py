"""The real kubectl, for commands that run it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from testbed.cluster.binaries import binary


def with_programs(kubeconfig: Path, folder: Path, *more: str) -> Mapping[str, str]:
    """Variables of somebody with this kubeconfig, whose PATH begins with the tier's kubectl and `more`
    programs of it, and with `epp-client`. `folder` is their home."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("kubectl", *more):
        if not (programs / name).is_symlink():
            (programs / name).symlink_to(binary(name))
    return {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        # Of kubectl's cache and helm's settings.
        "HOME": str(folder),
        "KUBECONFIG": str(kubeconfig),
    }
