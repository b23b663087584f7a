"""Unix sockets and their names in the file system: a name is replaced atomically, and removed only if it is
ours."""

import contextlib
import itertools
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

BACKLOG = 1024
"""Connections that wait to be accepted. Envoy opens one per worker thread."""
MODE = 0o660
"""Mode of the sockets. Everybody with write access can act as Envoy: the user and the group."""

_NUMBERS = itertools.count()


class Held(NamedTuple):
    """A socket that has outlived the process that bound it."""

    socket: socket.socket
    inode: int
    """Inode of its name."""


class SocketFile:
    """Binds a socket to the name `fresh`, and moves it to `path` once it listens.

    So `path` always leads to a listening socket when one process takes over from another, and never has
    rights other than `mode`.

    Raises:
        OSError: `path` is not a socket, or its directory is missing or not writable; the text tells which.
    """

    def __init__(self, path: str, mode: int = MODE) -> None:
        self.path = Path(path)
        self.mode = mode
        _check_directory(self.path.parent)
        if self.path.exists() and not stat.S_ISSOCK(self.path.stat().st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        # Several sockets of one process may be bound for one path, before the first has moved there.
        self.fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}.{next(_NUMBERS)}")
        self.inode: int | None = None
        """Inode of `path`, if it is ours."""

    def bind(self, binder: Callable[[str], object]) -> None:
        """Call `binder` with the path to bind, which gets `mode` by the umask.

        The umask belongs to the whole process. `binder` is a function, so it cannot wait while the umask is
        changed. Two callers that wait at the same time would restore each other's umask.
        """
        # A killed process that had our pid may have left it.
        self.fresh.unlink(missing_ok=True)
        previous = os.umask(0o777 & ~self.mode)
        try:
            binder(str(self.fresh))
        except OSError as error:
            raise OSError(f"cannot bind {self.path}: {error.strerror or error}") from error
        finally:
            os.umask(previous)

    def take_place(self) -> None:
        """Move the listening socket to `path`."""
        if not stat.S_ISSOCK(self.fresh.lstat().st_mode):
            raise FileExistsError(f"{self.fresh} was replaced by something that is not a socket")
        # A default ACL of the directory overrules the umask.
        self.fresh.chmod(self.mode)
        self.inode = self.fresh.stat().st_ino
        self.fresh.replace(self.path)

    def remove(self) -> None:
        """Remove `path`, unless another process has replaced it."""
        self.fresh.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self.inode:
                self.path.unlink()


class BoundSocket:
    """A Unix socket and its name. It refuses connections until some process listens on its descriptor; from
    then on they queue for any process that has the descriptor.

    Raises:
        OSError: see `SocketFile`; or it cannot be bound.
    """

    def __init__(
        self,
        path: str,
        *,
        kind: int = socket.SOCK_STREAM,
        mode: int = MODE,
        held: Held | None = None,
    ) -> None:
        """`held` is a socket that another process has bound and named."""
        self._file = SocketFile(path, mode)
        self._claimed = held is None
        if held is not None:
            self.socket, self.inode = held.socket, held.inode
            self._file.inode = held.inode
            return
        self.socket = socket.socket(socket.AF_UNIX, kind)
        try:
            self._file.bind(self.socket.bind)
            self.inode = self._file.fresh.lstat().st_ino
            """Inode of its name, which moving does not change."""
        except BaseException:
            self.close()
            raise

    @property
    def named(self) -> bool:
        """Whether `path` leads to this socket."""
        return taken(self._file.path, self.inode) is not None

    def take_place(self) -> None:
        """Move the listening socket to `path`. A second call does nothing.

        Raises:
            OSError: it cannot be moved.
        """
        if self.named:
            # The new time tells earlier listeners that we took over, see `taken`.
            if not self._claimed:
                os.utime(self._file.path)
                self._claimed = True
            return
        if taken(self._file.fresh, self.inode) is None:
            raise FileNotFoundError(f"{self._file.fresh} was removed")
        self._file.take_place()

    def remove(self) -> None:
        """Remove the name, if it is ours. The descriptor stays open."""
        self._file.remove()

    def leave(self) -> None:
        """Close our descriptor and keep the name: another process has the descriptor too."""
        self.socket.close()

    def close(self) -> None:
        """Close the descriptor and remove the name. Queued connections are reset once no other process has
        the descriptor."""
        self.socket.close()
        self.remove()


def taken(path: Path, inode: int) -> int | None:
    """When the socket with `inode` was moved to `path` or taken over there, in nanoseconds of the file
    system's clock; compare it only with other such times. None if `path` leads elsewhere.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns if found.st_ino == inode else None


def served(path: Path, kind: int = socket.SOCK_STREAM) -> bool:
    """Whether a process listens at `path`. It sees a connection that closes at once."""
    with socket.socket(socket.AF_UNIX, kind) as asking:
        asking.setblocking(False)
        try:
            asking.connect(str(path))
        except BlockingIOError:
            # The listener's queue is full.
            return True
        except OSError:
            return False
    return True


def _check_directory(directory: Path) -> None:
    # Directories that others can write to are allowed: a Pod's emptyDir has mode 0777. In a shared
    # directory others could replace our socket.
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{directory} is not a directory; create it and make it writable for this user"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot create a socket in {directory}: not writable for this user")
