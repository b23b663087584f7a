"""Runs `epp-client top` on a terminal, and leaves it as it was. A shell."""

import contextlib
import os
import queue
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Final

from rich.console import Console
from rich.live import Live as Screen

from epp_client.errors import AdminUnreachable
from epp_client.terminal.feed import PATIENCE, Feed, connected
from epp_client.terminal.target import Target
from epp_client.terminal.top import Shown, frame
from epp_client.terminal.watch import Watch
from epp_client.time_of_day import unix_time

_TURN: Final = 0.2
"""Seconds between two looks for keys and events."""
_REDRAW: Final = 1.0
"""Seconds after which a frame is drawn although nothing has changed: ages grow."""
_WIDTH: Final = 160
"""Columns of a frame for a pipe or a file."""
_QUIT: Final = b"qQ\x03\x04"


def once(target: Target, query: Mapping[str, Any], pool: str) -> None:
    """Print one frame.

    Raises:
        AdminUnreachable: the sidecar does not answer.
    """
    watch = Watch()
    until = time.monotonic() + PATIENCE
    for name, data in connected(target, query):
        watch.take(name, data, unix_time())
        if watch.complete(pool):
            break
        if time.monotonic() > until:
            raise AdminUnreachable(f"{target.name} sends no pools")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    shown = _shown(watch, target, pool, console.width, None, keys=False)
    console.print(frame(watch.live, shown))


def run(target: Target, query: Mapping[str, Any], pool: str) -> None:
    """Draw frames until `q`, Ctrl-C, SIGTERM or SIGHUP.

    Raises:
        AdminUnreachable: the sidecar does not answer at the start.
    """
    feed, watch = Feed(target, query), Watch()
    # The first answer, or a plain error message.
    target.address()
    feed.start()
    console = Console(highlight=False)
    with (
        _signals_end(),
        _keys() as keys,
        Screen(console=console, screen=True, auto_refresh=False) as screen,
        contextlib.suppress(KeyboardInterrupt),
    ):
        drawn = 0.0
        while not _asked_to_quit(keys):
            changed = _taken(feed, watch)
            if changed or time.monotonic() - drawn > _REDRAW:
                width, height = console.size
                shown = _shown(watch, target, pool, width, height, keys=keys is not None)
                screen.update(frame(watch.live, shown), refresh=True)
                drawn = time.monotonic()


def _shown(
    watch: Watch, target: Target, pool: str, width: int, height: int | None, *, keys: bool
) -> Shown:
    now = unix_time()
    at = watch.live.head.get("at", now)
    return Shown(target.name, at, width, height, pool, watch.trouble(now), keys)


def _taken(feed: Feed, watch: Watch) -> bool:
    """Take what has come; whether there was something."""
    found = False
    with contextlib.suppress(queue.Empty):
        while True:
            watch.take(*feed.queue.get_nowait(), unix_time())
            found = True
    return found


def _asked_to_quit(keys: int | None) -> bool:
    """Wait for a key for a moment."""
    if keys is None:
        time.sleep(_TURN)
        return False
    ready, _, _ = select.select([keys], [], [], _TURN)
    if not ready:
        return False
    pressed = os.read(keys, 64)
    # Nothing to read: the terminal has gone.
    return not pressed or any(key in _QUIT for key in pressed)


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """The descriptor to read single keys from; None if stdin is no terminal."""
    if not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        # A stopped process would leave the other screen, and a terminal without echo.
        changed = termios.tcgetattr(descriptor)
        changed[6][termios.VSUSP] = b"\x00"
        termios.tcsetattr(descriptor, termios.TCSANOW, changed)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals_end() -> Iterator[None]:
    """End by SIGTERM and SIGHUP through the same `finally` as by a key."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
