"""Structured logs on stderr, as JSON lines or for a person, and the rate limit of repeated events.

Request headers and bodies are never logged.
"""

import logging
import sys
import time
from collections.abc import Callable, Hashable

import structlog

from epp_client.errors import SettingsError

MAX_KEYS = 10_000


def form_of(form: str) -> str:
    """`form`, and for `auto` what fits stderr: `console` on a terminal, else `json`."""
    if form != "auto":
        return form
    return "console" if sys.stderr.isatty() else "json"


def configure(form: str = "auto", level: str = "info", **always: int) -> None:
    """Set up structlog, and the standard logging that our libraries use.

    `always` are fields of every line.

    Raises:
        SettingsError: `form` or `level` is unknown.
    """
    form = form_of(form)
    if form not in ("json", "console"):
        raise SettingsError(f"log_format: {form!r} is none of auto, json, console")
    _number(level)
    structlog.contextvars.bind_contextvars(**always)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
    ]
    renderer: structlog.typing.Processor
    if form == "json":
        shared += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ]
        renderer = structlog.processors.JSONRenderer()
    else:
        # The time of the reader's clock, with its offset from UTC.
        shared.append(structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S%z", utc=False))
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, renderer],
        # One write for a line and its end: other processes write to the same pipe.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    )
    logging.basicConfig(handlers=[handler], force=True)
    set_level(level)


def set_level(level: str) -> None:
    """Log from `level` on; libraries from warnings on.

    Raises:
        SettingsError: it is unknown.
    """
    number = _number(level)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))
    logging.getLogger().setLevel(max(number, logging.WARNING))


def _number(level: str) -> int:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise SettingsError(f"log_level: {level!r} is not one of debug, info, warning, error")
    return number


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
