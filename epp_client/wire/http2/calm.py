"""Calm: limits the useless frames of a peer, above which the connection is closed.

Single pings, settings, empty frames and resets are legitimate; in bulk they are an attack (CVE-2019-9512
and related ones, CVE-2023-44487). The limit is relative: useful work and time add to the budget. Nothing
here reads frames.
"""

from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

from epp_client.wire.http2.frames import ConnectionFault, ErrorCode

BURST: Final = 2_000
"""Useless frames that a peer may send at once, without useful work."""
MAX_BUDGET: Final = 20_000
"""Upper bound of the budget, which limits an attack on a busy connection."""
RATE: Final = 200.0
"""Useless frames per second that are always allowed, such as keepalive pings of an idle peer."""


class Calm:
    """A budget for useless frames. Code that sees useful work adds to `left`.
    The clock is read only when the budget is used up, so never on the hot path.
    """

    __slots__ = ("_clock", "_filled", "left")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._filled = clock()
        self.left: i64 = BURST

    def spend(self, what: str) -> None:
        """Count a useless frame.

        Raises:
            ConnectionFault: ENHANCE_YOUR_CALM, if the budget is used up.
        """
        self.left = min(self.left, MAX_BUDGET) - 1
        if self.left < 0:
            now = self._clock()
            self.left = min(BURST, int((now - self._filled) * RATE)) - 1
            self._filled = now
            if self.left < 0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")
