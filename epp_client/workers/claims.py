"""Claims: binds relay sockets that nobody serves, and listens on them, as the first step of a start.

Without a listener Envoy retries for about 10 s and then fails requests, and on a busy machine a start takes
longer. A listening socket queues connections for as long as Envoy waits for a silent relay: 50 s.

Imports only the standard library, as it runs before the imports that take most of a start.
"""

import contextlib
import select
from collections.abc import Iterable
from pathlib import Path

from epp_client.wire.socket_file import BACKLOG, BoundSocket, served


class Claims:
    """The claimed sockets of `paths`, until workers take them."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._claimed: dict[Path, BoundSocket | None] = dict.fromkeys(paths)

    def claim(self) -> None:
        """Listen on all paths that nobody listens on. Errors are ignored: the next one to bind the path
        reports them."""
        for path, bound in self._claimed.items():
            if bound is None and not served(path):
                with contextlib.suppress(OSError):
                    self._claimed[path] = listening(path)

    @property
    def others(self) -> list[Path]:
        """Paths that are not claimed, because another process listened on them."""
        return [path for path, bound in self._claimed.items() if bound is None]

    @property
    def any(self) -> bool:
        """Whether any path is claimed."""
        return any(bound is not None for bound in self._claimed.values())

    @property
    def knocked(self) -> bool:
        """Whether a connection waits in a claimed socket, so an Envoy has requests."""
        poll = select.poll()
        for bound in self._claimed.values():
            if bound is not None:
                poll.register(bound.socket, select.POLLIN)
        return bool(poll.poll(0))

    def take(self, path: Path) -> BoundSocket | None:
        """The claimed socket of this path, which the caller owns from now on."""
        bound = self._claimed.get(path)
        if bound is not None:
            self._claimed[path] = None
        return bound

    def close(self) -> None:
        """Close sockets that were not taken. Their connections are reset, and Envoy retries."""
        for path in self._claimed:
            if (bound := self.take(path)) is not None:
                bound.close()


def listening(path: Path) -> BoundSocket:
    """A listening socket at `path`.

    Raises:
        OSError: it cannot be bound.
    """
    bound = BoundSocket(str(path))
    try:
        bound.socket.listen(BACKLOG)
        bound.take_place()
    except BaseException:
        bound.close()
        raise
    return bound
