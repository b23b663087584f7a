"""Caches of programs that are built once, and shared by all clones of the user."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Unavailable(Exception):
    """A program is missing and cannot be built; the text tells why."""


def cache_folder(kind: str) -> Path:
    """The cache of one kind of programs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "epp-client" / kind


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process builds into `folder` at a time. It is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
