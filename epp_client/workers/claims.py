"""Claims: relay sockets that nobody serves any more, bound and listened on before anything else is done.

Until somebody listens Envoy asks again, for about 10 s, and then gives up: what a start takes beyond that
costs requests, and on a busy machine a start takes many times what it takes on an idle one. A socket that
is listened on keeps what connects, for as long as Envoy waits for a silent relay: 50 s.

Imports the standard library alone: it is used before the imports that take most of a start.
"""

import contextlib
import select
from collections.abc import Iterable
from pathlib import Path

from epp_client.wire.socket_file import BACKLOG, BoundSocket, served


class Claims:
    """The claimed ones of these sockets, until a worker's place takes them."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._claimed: dict[Path, BoundSocket | None] = dict.fromkeys(paths)

    def claim(self) -> None:
        """Listen on those that nobody listens on. What cannot be bound is left to whoever binds it next,
        who says why it cannot."""
        for path, bound in self._claimed.items():
            if bound is None and not served(path):
                with contextlib.suppress(OSError):
                    self._claimed[path] = listening(path)

    @property
    def others(self) -> list[Path]:
        """Those that are not ours: somebody else serves or keeps them, or did when we looked."""
        return [path for path, bound in self._claimed.items() if bound is None]

    @property
    def any(self) -> bool:
        """Whether some of them are ours."""
        return any(bound is not None for bound in self._claimed.values())

    @property
    def knocked(self) -> bool:
        """Whether somebody waits in them: there is an Envoy, and it has requests."""
        poll = select.poll()
        for bound in self._claimed.values():
            if bound is not None:
                poll.register(bound.socket, select.POLLIN)
        return bool(poll.poll(0))

    def take(self, path: Path) -> BoundSocket | None:
        """The claimed socket of this name, which is the caller's from now on."""
        bound = self._claimed.get(path)
        if bound is not None:
            self._claimed[path] = None
        return bound

    def close(self) -> None:
        """Let go of what nobody has taken; who waits there is reset, and Envoy asks again."""
        for path in self._claimed:
            if (bound := self.take(path)) is not None:
                bound.close()


def listening(path: Path) -> BoundSocket:
    """A socket of this name that is listened on.

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
