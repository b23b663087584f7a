"""Imports what a process needs without what it does not. Imported before everything else, so it needs the
standard library only."""

import importlib
import sys


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
