"""Python's cycle collector, told to keep out of the way of a process that serves.

What is here is freed by reference counts: a collection finds little, and a full one stops everything:
a control process for 150 ms, in the midst of a list of Pods.
"""

import gc
from typing import Final

THRESHOLD: Final = (20_000, 20, 100)
"""Objects that come to nothing before a young collection; a full one is rare."""


def settle() -> None:
    """The process has started: what it has made so far stays, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLD)
