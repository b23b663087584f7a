"""The time of day, for what people read. No deadline uses it, because it may jump."""

import time


def unix_time() -> float:
    """Unix time in seconds."""
    return time.time()
