"""Starts Python peers as processes, with retries, as a start may time out on a busy machine."""

from typing import Any

from testbed.process import Process, ProcessFailed

ATTEMPTS = 3


async def started(module: str, *arguments: str) -> tuple[Process, dict[str, Any]]:
    """Start a peer; returns its process and its first line. Raises ProcessFailed."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await Process.python(module, *arguments)
        except ProcessFailed:
            continue
    return await Process.python(module, *arguments)
