"""Imports what a process needs without what it does not. Imported before everything else, so it needs the
standard library only."""

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """For blocks that import: the cycle collector would look again and again at what stays to the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def structlog_without_rich() -> None:
    """Import structlog. It would import rich, if that is installed, for tracebacks that we do not print: a
    fifth of the CPU time in which a worker starts. Whoever wants rich itself can still import it later."""
    if "rich" in sys.modules:
        return
    # None makes the import of rich fail.
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]
