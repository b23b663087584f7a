"""Waits for blocked signals on the event loop. Not in `signals`, which is imported before asyncio."""

import asyncio
import ctypes
import os
import signal
from collections.abc import Collection
from typing import Final

from epp_client import signals

_MASK_BYTES: Final = 128
"""Size of a `sigset_t` of glibc and of musl."""


async def taken(numbers: Collection[signal.Signals]) -> signal.Signals:
    """Wait until one of these blocked signals is pending, and take it.

    Raises:
        OSError: the system gives no descriptor for them.
    """
    loop = asyncio.get_running_loop()
    pending = asyncio.Event()
    descriptor = _descriptor(numbers)
    # It only tells that there is one. What is not taken stays pending, for the next program too.
    loop.add_reader(descriptor, pending.set)
    try:
        while (number := signals.take(numbers)) is None:
            pending.clear()
            await pending.wait()
        return number
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _descriptor(numbers: Collection[signal.Signals]) -> int:
    """A descriptor that is readable while one of these signals is pending: signalfd(2), which Python does
    not have."""
    libc = ctypes.CDLL(None, use_errno=True)
    mask = ctypes.create_string_buffer(_MASK_BYTES)
    libc.sigemptyset(mask)
    for number in numbers:
        libc.sigaddset(mask, number)
    descriptor: int = libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"signalfd: {os.strerror(code)}")
    return descriptor
