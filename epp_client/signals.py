"""The signals that the sidecar acts on. Imported before everything else, so it needs the standard library
only.

The control process blocks them for its whole life; see `signal_waits`. A signal that a handler has noted
would be lost at `exec`. A blocked signal stays pending in the kernel until a program takes it.
"""

import signal
from collections.abc import Collection
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
"""Drain and exit."""
RENEWING: Final = (signal.SIGHUP, signal.SIGUSR2)
"""SIGHUP replaces the relay workers, SIGUSR2 the whole program."""
LOGGING: Final = (signal.SIGUSR1,)
"""Log at level debug, or as before."""
_ALL: Final = (*ENDING, *RENEWING, *LOGGING)


def block() -> None:
    """Keep the signals pending: in this thread, in threads and processes that it starts, and through
    `exec`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)


def unblock() -> None:
    """Deliver the signals to their handlers, pending ones first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)


def ignore(numbers: Collection[signal.Signals]) -> None:
    """Ignore these signals, pending ones included."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def take(numbers: Collection[signal.Signals]) -> signal.Signals | None:
    """Take one pending signal of `numbers`; None when none is pending. Never waits."""
    taken = signal.sigtimedwait(numbers, 0)
    return signal.Signals(taken.si_signo) if taken is not None else None
