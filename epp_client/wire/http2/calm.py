"""Calm: how much traffic that serves nobody a peer may cause before the connection is closed.

Pings, settings, empty frames, resets of streams that never said anything: each is legitimate and
each, in bulk, is an attack (CVE-2019-9512 and its family, CVE-2023-44487). The bound is relative: work
that a peer has done earns the right to its overhead, and time forgives the rest. Never sees a frame.
"""

from collections.abc import Callable

from epp_client.wire.http2.frames import ConnectionFault, ErrorCode

BURST = 2_000
"""Nuisances that a peer may cause at once, without having done anything useful."""
SAVINGS = 20_000
"""The most that useful work can earn: it bounds how long an attack on a busy connection lasts."""
RATE = 200.0
"""Nuisances per second that are forgiven: keepalive pings of an idle peer never add up."""


class Calm:
    """A bucket of patience, spent by nuisances. Whoever sees useful work adds to `left`.

    The clock is read only when the bucket runs dry, so that the hot path never does.
    """

    __slots__ = ("_clock", "_filled", "left")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._filled = clock()
        self.left = BURST

    def spend(self, what: str) -> None:
        """The peer did something that serves nobody.

        Raises:
            ConnectionFault: ENHANCE_YOUR_CALM; patience has run out.
        """
        self.left = min(self.left, SAVINGS) - 1
        if self.left < 0:
            now = self._clock()
            self.left = min(BURST, int((now - self._filled) * RATE)) - 1
            self._filled = now
            if self.left < 0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")
