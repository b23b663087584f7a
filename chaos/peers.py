"""Our Python peers as processes: on a busy machine one may take longer to start than it is waited for."""

from typing import Any

from testbed.process import Process, ProcessFailed

ATTEMPTS = 3


async def started(module: str, *arguments: str) -> tuple[Process, dict[str, Any]]:
    """Start a peer; its process, and what it says when it is ready. Raises ProcessFailed."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await Process.python(module, *arguments)
        except ProcessFailed:
            continue
    return await Process.python(module, *arguments)
