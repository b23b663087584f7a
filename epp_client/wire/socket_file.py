"""The name of a Unix socket in the file system: taken over without a gap, and left only if it is ours."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BACKLOG = 1024
"""Connections that wait to be accepted; Envoy opens one from each of its threads."""
MODE = 0o660
"""Whoever can write to the socket can speak as Envoy: its user and its group."""


class Held(NamedTuple):
    """A socket that outlived the process that bound it."""

    socket: socket.socket
    inode: int
    """Of its name."""


class SocketFile:
    """A socket is bound to `fresh` and, once it listens, moved to `path`.

    So there is no moment without a socket when one process takes over from another, and none in which
    `path` has rights other than `mode`.

    Raises:
        OSError: `path` is a file that is not a socket, or its directory is missing or cannot
            be written; the text says which and names it.
    """

    def __init__(self, path: str, mode: int = MODE) -> None:
        self.path = Path(path)
        self.mode = mode
        _check_directory(self.path.parent)
        if self.path.exists() and not stat.S_ISSOCK(self.path.stat().st_mode):
            raise FileExistsError(f"{path} exists and is not a socket")
        self.fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self.fresh.unlink(missing_ok=True)
        self.inode: int | None = None
        """Of `path`, while that is ours."""

    @contextlib.contextmanager
    def binding(self) -> Iterator[str]:
        """Bind to the path that this gives: `mode` from the first moment on."""
        previous = os.umask(0o777 & ~self.mode)
        try:
            yield str(self.fresh)
        except OSError as error:
            raise OSError(f"cannot bind {self.path}: {error.strerror or error}") from error
        finally:
            os.umask(previous)

    def take_place(self) -> None:
        """The socket listens: from now on `path` is this one."""
        if not stat.S_ISSOCK(self.fresh.lstat().st_mode):
            raise FileExistsError(f"{self.fresh} was replaced by something that is not a socket")
        # an ACL of the directory's may have overruled the umask
        self.fresh.chmod(self.mode)
        self.inode = self.fresh.stat().st_ino
        self.fresh.replace(self.path)

    def remove(self) -> None:
        """Remove the name, unless another process has put its own in the place."""
        self.fresh.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self.inode:
                self.path.unlink()


class BoundSocket:
    """A Unix socket of ours and its name. Refuses until somebody listens on its descriptor, whatever
    process that is; from then on what connects is kept for whoever has the descriptor.

    Raises:
        OSError: as `SocketFile`, or it cannot be bound.
    """

    def __init__(
        self,
        path: str,
        *,
        kind: int = socket.SOCK_STREAM,
        mode: int = MODE,
        held: Held | None = None,
    ) -> None:
        """`held` is one that another process has bound, and that has its name already."""
        self._file = SocketFile(path, mode)
        self._claimed = held is None
        if held is not None:
            self.socket, self.inode = held.socket, held.inode
            self._file.inode = held.inode
            return
        self.socket = socket.socket(socket.AF_UNIX, kind)
        try:
            with self._file.binding() as fresh:
                self.socket.bind(fresh)
            self.inode = self._file.fresh.lstat().st_ino
            """Of its name, now and wherever it is moved."""
        except BaseException:
            self.close()
            raise

    @property
    def named(self) -> bool:
        """Whether `path` leads here: it has taken its place, and nobody has taken that since."""
        return taken(self._file.path, self.inode) is not None

    def take_place(self) -> None:
        """Somebody listens: from now on `path` is this one. Once is enough.

        Raises:
            OSError: it cannot be moved there.
        """
        if self.named:
            # tells those who listened before us, see `taken`
            if not self._claimed:
                os.utime(self._file.path)
                self._claimed = True
            return
        if taken(self._file.fresh, self.inode) is None:
            raise FileNotFoundError(f"{self._file.fresh} was removed")
        self._file.take_place()

    def remove(self) -> None:
        """Remove the name, if it is ours; the descriptor is somebody else's to close."""
        self._file.remove()

    def leave(self) -> None:
        """Let go of the descriptor alone: another process has it too, and keeps what connects."""
        self.socket.close()

    def close(self) -> None:
        """Let go of the name and of the descriptor. What nobody has accepted is reset once no other
        process has the descriptor."""
        self.socket.close()
        self.remove()


def taken(path: Path, inode: int) -> int | None:
    """When the socket of this inode was given this name, or somebody took it over there; in nanoseconds of
    the file system's clock, to be compared with itself alone. None: the name leads elsewhere.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns if found.st_ino == inode else None


def served(path: Path, kind: int = socket.SOCK_STREAM) -> bool:
    """Whether somebody listens there. They see a connection that comes and goes."""
    with socket.socket(socket.AF_UNIX, kind) as asking:
        asking.setblocking(False)
        try:
            asking.connect(str(path))
        except BlockingIOError:
            # its queue is full
            return True
        except OSError:
            return False
    return True


def _check_directory(directory: Path) -> None:
    # That others can write there is no reason to refuse: a Pod's emptyDir has mode 0777, and is nobody
    # else's. Where it is somebody else's, they could put a socket of their own in the place of ours.
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is no directory, and is not made here")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"no right to make a socket in {directory}")
