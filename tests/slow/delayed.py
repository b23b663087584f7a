"""The command line of the sidecar, on a machine that is slow at one step of the start.

    python -m tests.slow.delayed STEP=SECONDS serve ...

What load does at random, at a chosen step and for a known time.
"""

import asyncio
import functools
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

STEPS = {
    "lists": ("epp_client.sidecar", "Sidecar._pools_known"),
    "telling Envoy": ("epp_client.sidecar", "Sidecar._envoy_told"),
    "workers": ("epp_client.workers.supervisor", "Workers._spawn"),
}
"""Coroutine functions that take that much longer. `imports` are delayed as a whole."""
IMPORTS = "imports"


def slow(step: Callable[..., Awaitable[Any]], seconds: float) -> Callable[..., Awaitable[Any]]:
    """`step`, on a slow machine."""

    @functools.wraps(step)
    async def slowed(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(seconds)
        return await step(*arguments, **named)

    return slowed


class SlowImport:
    """Finds nothing, late."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def find_spec(self, name: str, *_: Any) -> None:
        """An import of the sidecar's parts has begun."""
        if name == "epp_client.app":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            time.sleep(self._seconds)


def main() -> None:
    """Slow one step down, then be the command line."""
    step, _, seconds = sys.argv.pop(1).partition("=")
    if step == IMPORTS:
        sys.meta_path.insert(0, SlowImport(float(seconds)))  # type: ignore[arg-type]
    else:
        module, path = STEPS[step]
        name, attribute = path.split(".")
        owner = getattr(importlib.import_module(module), name)
        setattr(owner, attribute, slow(getattr(owner, attribute), float(seconds)))
    from epp_client.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
