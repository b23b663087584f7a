"""What one end of a connection has received and still holds, with the limits on it. Pure.

Adds receiving to the `Outbox`; streams know their connection by this class.
"""

from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

from epp_client.wire.http2 import frames
from epp_client.wire.http2.calm import Calm
from epp_client.wire.http2.frames import DEFAULT_WINDOW, LARGEST_ID, window_update
from epp_client.wire.http2.headers import MAX_HEADER_LIST
from epp_client.wire.http2.outbox import Backlog, Outbox, Shell

STREAM_WINDOW: Final = 256 * 1024
"""Window of each stream in bytes: the most that a paused stream has to hold."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
"""Window of the connection in bytes. It is replenished when bytes arrive, so that paused streams do not
block the others. `STREAM_WINDOW` limits what one stream holds, and `MAX_HELD` what all streams hold."""
REPLENISH: Final = CONNECTION_WINDOW // 2
"""Bytes received after which the window is replenished."""
MAX_HELD: Final = 128 * 1024 * 1024
"""Bytes of messages held for paused owners on one connection. Above it the connection's window is not
replenished until owners have taken messages."""


class Tally:
    """Bytes of unfinished messages on all connections that share it."""

    __slots__ = ("assembled",)

    def __init__(self) -> None:
        self.assembled = 0


class Inbox(Outbox):
    """Counts what was received and is still held."""

    def __init__(self, clock: Callable[[], float], shell: Shell) -> None:
        super().__init__(shell)
        self.calm = Calm(clock)
        self.closed = False
        """Nothing more is sent or read; the shell closes once the output is taken."""
        self.work: i64 = LARGEST_ID
        """Frames and messages that this call of `receive` may still process."""
        self.held = 0
        """Bytes of complete messages whose owners are paused."""
        self.assembled = 0
        """Bytes of unfinished messages."""
        self.tally = Tally()
        """Unfinished messages of several connections; their creator may let them share one."""
        self.unacked: i64 = 0
        """Bytes received since the connection's window was replenished."""

    def replenish(self) -> None:
        """Give the connection's window back, unless its streams hold too much."""
        if self.unacked >= REPLENISH and self.held <= MAX_HELD and not self.closed:
            self.write(window_update(0, self.unacked))
            self.unacked = 0

    def count_assembled(self, change: int) -> None:
        """Add to the bytes of unfinished messages; negative when one is complete or dropped."""
        self.assembled += change
        self.tally.assembled += change

    def forget(self, stream: Backlog, was_reset: bool = False) -> None:
        """Remove a stream that is closed on both sides, or reset."""
        raise NotImplementedError


def own_settings(own: dict[int, int]) -> bytes:
    """Our SETTINGS frame with `own` settings of one end, and the WINDOW_UPDATE of the connection."""
    values = own | {
        frames.HEADER_TABLE_SIZE: 0,
        frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        frames.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST,
    }
    return frames.settings(values) + window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
