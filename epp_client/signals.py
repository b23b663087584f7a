"""The signals that the docs name. Imported before all else, so the standard library alone.

The control process keeps them blocked for its whole life and asks for them. A handler would be gone at
`exec`, with whatever it had noted; a blocked signal stays pending in the kernel until a program takes it.
"""

import signal
from collections.abc import Collection
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
"""Drain and exit."""
RENEWING: Final = (signal.SIGHUP, signal.SIGUSR2)
"""Fresh workers; a fresh program."""


def hold() -> None:
    """Keep them pending from now on: in this thread, those it starts, its children, and through `exec`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING, *RENEWING))


def release() -> None:
    """Have them delivered to their handlers, those that are pending first."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*ENDING, *RENEWING))


def ignore(numbers: Collection[signal.Signals]) -> None:
    """Do nothing about these, and forget those that are pending."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def take(numbers: Collection[signal.Signals]) -> signal.Signals | None:
    """One that is pending, which is not pending any more; None when there is none. Never waits."""
    taken = signal.sigtimedwait(numbers, 0)
    return signal.Signals(taken.si_signo) if taken is not None else None
