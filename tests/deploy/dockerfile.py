"""A Dockerfile's instructions, and its build stage carried out without Docker.

The commands run as they are written, in a folder that stands for `/`: absolute paths of the stage are moved
into it, `python` is the one of the tests. COPY takes what .dockerignore lets through.
"""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
VENV = "/opt/epp-client"
PATHS = ("/src", VENV, "/build", "/wheels", "/envoy")
"""Absolute paths of the build stages."""
OFFLINE = ("Could not find a version", "No matching distribution", "ConnectionError", "Errno -3")
"""Signs that the package index is out of reach."""


class Instruction(NamedTuple):
    """`RUN pip install x` is `("RUN", "pip install x")`."""

    name: str
    value: str


def stages(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each stage, by its name; the last one's is empty."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\\n", " ", text)
    found: dict[str, list[Instruction]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, value = line.partition(" ")
        if name == "FROM":
            current = found.setdefault(value.partition(" AS ")[2], [])
        current.append(Instruction(name, value.strip()))
    return found


STAGES = stages((ROOT / "Dockerfile").read_text())


class Build:
    """One stage, being carried out in `root`."""

    def __init__(self, context: Path, root: Path, paths: tuple[str, ...]) -> None:
        self._context = context
        self.root = root
        self._paths = paths
        (root / "bin").mkdir(parents=True)
        (root / "bin" / "python").symlink_to(Path(sys.executable).resolve())
        self._environment = {
            "PATH": f"{root}/bin:{os.environ['PATH']}",
            "HOME": os.environ.get("HOME", "/"),
            **{key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_"))},
        }
        self._folder = root

    def run(self, instructions: list[Instruction]) -> None:
        """All of them, in order."""
        for name, value in instructions:
            match name:
                case "WORKDIR":
                    self._folder = self._moved_path(value)
                    self._folder.mkdir(parents=True, exist_ok=True)
                case "ENV":
                    pairs = dict(pair.split("=", 1) for pair in value.split())
                    pairs.pop(
                        "PIP_NO_CACHE_DIR",
                        None,
                        # the cache of the machine that tests is kept
                    )
                    self._environment |= pairs
                case "COPY":
                    *sources, target = value.split()
                    for source in sources:
                        self._copy(source, target, several=len(sources) > 1)
                case "RUN":
                    self._command(value)
                case "FROM" | "SHELL":
                    pass
                case other:
                    raise AssertionError(f"{other} is not carried out here")

    def _moved_path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _copy(self, source: str, target: str, *, several: bool) -> None:
        into = self._folder / target
        for path in self.context():
            if path == Path(source):
                place = into / path.name if several or target.endswith("/") else into
            elif path.is_relative_to(source):
                place = into / path.relative_to(source)
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._context / path, place)

    def context(self) -> Iterator[Path]:
        """The files that .dockerignore lets through; the last line that matches decides."""
        rules = [
            line
            for line in (self._context / ".dockerignore").read_text().splitlines()
            if line.strip() and not line.startswith("#")
        ]
        top = {rule.lstrip("!") for rule in rules if rule.startswith("!")}
        for name in sorted(top):
            start = self._context / name
            for path in [start] if start.is_file() else sorted(start.rglob("*")):
                relative = path.relative_to(self._context)
                if path.is_file() and not _ignored(relative, rules):
                    yield relative

    def _command(self, command: str) -> None:
        for path in self._paths:
            command = re.sub(rf"(?<![\w.]){path}\b", str(self._moved_path(path)), command)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode != 0:
            raise CommandFailed(f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


class CommandFailed(AssertionError):
    """A RUN of the Dockerfile that did not exit with 0."""


def _ignored(path: Path, rules: list[str]) -> bool:
    ignored = False
    for rule in rules:
        pattern = rule.lstrip("!").removeprefix("**/")
        candidates = [*map(str, [path, *path.parents][:-1])]
        if "**/" in rule:
            candidates += [Path(item).name for item in candidates]
        if any(fnmatch.fnmatchcase(item, pattern) for item in candidates):
            ignored = not rule.startswith("!")
    return ignored
