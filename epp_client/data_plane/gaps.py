"""Gaps: the time between two parts of a streamed response, which is the inter-token delay of most model
servers.

One response of `EVERY` is measured: to measure each would cost a twelfth of the relay's work for a part.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final, final

from epp_client.metrics.counters import PoolCounters, bucket

EVERY: Final = 16


@final
class Gaps:
    """The gaps of one response."""

    def __init__(self, counters: PoolCounters, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._counters = counters
        self._received = 0
        self._at = 0.0

    def received(self, size: int) -> None:
        """So many bytes of the response have come from Envoy so far."""
        if size == self._received:
            return
        now = self._clock()
        if self._received:
            gap = now - self._at
            self._counters.gaps[bucket(gap)] += 1
            self._counters.gap_seconds += gap
        self._received, self._at = size, now
