"""Imports what a process needs without what it does not. Imported before everything else, so it needs the
standard library only."""

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """For blocks that import: the cycle collector would look again and again at what stays to the end."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def plain_messages() -> Iterator[None]:
    """For the first import of envoy-data-plane: its messages are plain dataclasses then. To make 600
    classes and a bootstrap with pydantic takes twice the time; what it checks, mypy has checked."""
    import dataclasses

    import pydantic.dataclasses

    def plain(**options: Any) -> Any:
        del options["config"]
        return dataclasses.dataclass(**options)

    checked = pydantic.dataclasses.dataclass
    pydantic.dataclasses.dataclass = plain  # type: ignore[assignment]
    try:
        yield
    finally:
        pydantic.dataclasses.dataclass = checked


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
