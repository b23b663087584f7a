"""The private folder of one `epp-client up`: its sockets, and the configuration of its Envoy."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFIX: Final = "epp-client-up-"
_ADMIN: Final = "admin"
"""File with host:port of the sidecar's admin page."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that only this user may enter (mode 0700), in $XDG_RUNTIME_DIR or the temporary folder.
    It is removed at the end. One that a killed process has left behind is removed too.

    Raises:
        OSError: it cannot be created.
    """
    parent = _parent()
    for left in parent.glob(f"{_PREFIX}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def tell_admin_page(folder: Path, address: str) -> None:
    """Write down for other commands of this user where the admin page of this gateway is.

    Raises:
        OSError: it cannot be written.
    """
    (folder / _ADMIN).write_text(address)


def admin_pages() -> list[str]:
    """host:port of the admin page of every gateway that this user runs."""
    found = []
    for folder in sorted(_parent().glob(f"{_PREFIX}*")):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.getuid() and _locked(descriptor):
                    found.append((folder / _ADMIN).read_text())
            finally:
                os.close(descriptor)
    return found


def _locked(descriptor: int) -> bool:
    """Whether a process has locked it. The lock that tells is shared, so that two who ask do not see each
    other's."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _parent() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())


def _remove_if_left(folder: Path) -> None:
    """Remove the folder if it is ours and no process has locked it. An empty one may be about to be
    locked."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_uid == os.getuid() and os.listdir(descriptor):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
