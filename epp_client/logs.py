"""Structured logs on stderr, as JSON lines or for a console, and the rate limit of repeated events.

Request headers and bodies are never logged.
"""

import logging
import sys
import time
from collections.abc import Callable, Hashable

import structlog

from epp_client.errors import SettingsError

MAX_KEYS = 10_000


def configure(form: str = "json", level: str = "info", **always: int) -> None:
    """Set up structlog, and the standard logging that our libraries use.

    `always` are fields of every line.

    Raises:
        SettingsError: `form` or `level` is unknown.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise SettingsError(f"log_level: {level!r} is not one of debug, info, warning, error")
    if form not in ("json", "console"):
        raise SettingsError(f"log_format: {form!r} is neither json nor console")
    structlog.contextvars.bind_contextvars(**always)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


class Repeats:
    """Limits equal events to one log line per `interval` seconds; the first gets a line at once."""

    def __init__(self, interval: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def due(self, key: Hashable) -> int | None:
        """The number of events that a line now would stand for; None when no line is due yet."""
        now = self._clock()
        suppressed = 0
        if (before := self._seen.get(key)) is not None:
            last, suppressed = before
            if now - last < self._interval:
                self._seen[key] = last, suppressed + 1
                return None
        if len(self._seen) >= MAX_KEYS:
            self._seen.clear()
        self._seen[key] = now, 0
        return suppressed + 1
