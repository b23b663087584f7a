"""Settings of Python's cycle collector that keep its pauses out of a serving process.

Reference counts free nearly everything here, so a collection finds little. A full collection stops the
whole process: a control process for 150 ms, for example while it lists Pods.
"""

import gc
from typing import Final

THRESHOLD: Final = (20_000, 20, 100)
"""Thresholds of the three generations, see `gc.set_threshold`: full collections are rare."""


def settle() -> None:
    """Exempt all objects made during start-up from collection, and make collections rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLD)
