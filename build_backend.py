"""The build backend: setuptools, and a wheel whose hot path is compiled wherever that can be done.

`pip install` of a checkout or of the source distribution compiles with mypyc if a C compiler and Python's
headers are there. Else, or if compiling fails, the package is plain Python; `pip install -v` shows why, and
`epp-client serve` says it when it starts. EPP_CLIENT_COMPILE=1 makes that an error, and 0 asks for plain
Python. An editable install is always plain Python.
"""

import os
import shlex
import shutil
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  the hooks that are setuptools' own
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
)

SWITCH = "EPP_CLIENT_COMPILE"
COMPILER = [
    "mypy[mypyc]==2.4.1",
    "types-protobuf==7.35.1.20260906",
    "types-PyYAML==6.0.12.20261113",
]
"""As constraints.txt pins them. mypyc checks types too, so the dependencies are needed beside these."""
ROOT = Path(__file__).parent

Settings = dict[str, Any] | None


def impossible() -> str:
    """Why nothing can be compiled here; empty if nothing is known against it."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        return f"there is no C compiler ({program})"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.exists():
        return "Python's headers (Python.h) are missing, for example Debian's python3-dev"
    return ""


def compiling() -> bool:
    """Whether to try."""
    wanted = os.environ.get(SWITCH, "")
    return wanted == "1" or (wanted != "0" and not impossible())


def get_requires_for_build_wheel(settings: Settings = None) -> list[str]:
    """What setuptools needs, and the compiler with what it has to read."""
    with switched("0"):
        needed = build_meta.get_requires_for_build_wheel(settings)
    if not compiling():
        return needed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*needed, *COMPILER, *project["dependencies"]]


def prepare_metadata_for_build_wheel(folder: str, settings: Settings = None) -> str:
    """The metadata, which does not depend on compiling."""
    with switched("0"):
        return build_meta.prepare_metadata_for_build_wheel(folder, settings)


def build_wheel(folder: str, settings: Settings = None, metadata: str | None = None) -> str:
    """The wheel; returns its name."""
    why = impossible()
    if compiling():
        try:
            with switched("1"):
                return build_meta.build_wheel(folder, settings, metadata)
        except (Exception, SystemExit) as error:
            if os.environ.get(SWITCH) == "1":
                raise
            why = f"compiling failed: {error or type(error).__name__}"
    print(f"epp-client: the hot path is NOT compiled: {why or f'{SWITCH}=0'}", flush=True)
    with switched("0"):
        return build_meta.build_wheel(folder, settings, metadata)


@contextmanager
def switched(value: str) -> Iterator[None]:
    """setup.py compiles if the switch is 1."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = value
    try:
        yield
    finally:
        os.environ.pop(SWITCH)
        if before is not None:
            os.environ[SWITCH] = before
