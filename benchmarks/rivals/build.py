"""Builds the rivals that are written here, once, into a cache. Nothing is started.

Versions are pinned by `grpc_go/go.mod` and `tonic/Cargo.toml`. Cargo works on a copy of the sources in the
cache, as it writes a lock file.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from testbed.build_cache import Unavailable, cache_folder, locked

SOURCES = Path(__file__).parent
LANGUAGES = {"grpc_go": ("go", "Go"), "tonic": ("cargo", "Rust")}
"""The program that builds each rival, and the name of its language."""
_FILES = {
    "grpc_go": ("go.mod", "go.sum", "main.go"),
    "tonic": ("Cargo.toml", "src/main.rs"),
}
_VERSIONS = {
    "grpc-go": ("grpc_go/go.mod", r"google\.golang\.org/grpc v(\S+)"),
    "tonic": ("tonic/Cargo.toml", r"tonic = \{ version = \"=([^\"]+)\""),
}
_TIMEOUT = 900


def cached(name: str) -> Path:
    """The path of a built rival, which depends on its sources only."""
    digest = hashlib.sha256()
    for file in _FILES[name]:
        digest.update(file.encode() + (SOURCES / name / file).read_bytes())
    return cache_folder("rivals") / f"{name}-{digest.hexdigest()[:12]}"


def versions() -> dict[str, str]:
    """The versions of the libraries, as pinned."""
    found = {}
    for library, (file, pattern) in _VERSIONS.items():
        [found[library]] = re.findall(pattern, (SOURCES / file).read_text())
    return found


def built(name: str, say: Callable[[str], None] = print) -> Path:
    """The path of a rival, which is built if it is not in the cache. Only one process builds at a time.

    Raises:
        Unavailable: it is not in the cache, and its language is not installed or the build fails.
    """
    target = cached(name)
    if os.access(target, os.X_OK):
        return target
    program, language = LANGUAGES[name]
    if shutil.which(program) is None:
        raise Unavailable(f"no {language} ({program}) on PATH to build it with")
    with locked(target.parent):
        if not os.access(target, os.X_OK):
            say(f"{name}: building (once, up to two minutes)")
            began = time.monotonic()
            _build(name, target)
            say(f"{name}: built in {time.monotonic() - began:.0f} s")
    return target


def _build(name: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{name}-") as folder:
        output = Path(folder) / "target"
        new = output / "release/rival"
        command: tuple[str, ...] = ("cargo", "build", "--release", "--quiet")
        if name == "grpc_go":
            command = ("go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(new))
        for file in _FILES[name]:
            (Path(folder) / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(SOURCES / name / file, Path(folder) / file)
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "CGO_ENABLED": "0", "CARGO_TARGET_DIR": str(output)},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"its build took more than {_TIMEOUT} s") from error
        if done.returncode:
            raise Unavailable(f"it cannot be built: {' '.join(done.stderr.split())[-500:]}")
        new.rename(target)
