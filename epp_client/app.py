"""The control process: a sidecar from its start to its end, and what signals ask of it."""

import asyncio
import os
import signal
import sys
from collections.abc import Collection

import structlog

from epp_client import signals
from epp_client.settings import ServeSettings
from epp_client.sidecar import Sidecar
from epp_client.workers.claims import Claims
from epp_client.workers.left_behind import LeftBehind
from epp_client.workers.supervisor import Workers

log = structlog.get_logger(__name__)

MOST_BEFORE = 4
"""Earlier workers, for each of ours, that may finish streams at once; then SIGHUP and SIGUSR2 wait."""
LOOK = 0.05
"""Seconds between two looks for signals."""


async def serve(settings: ServeSettings, claims: Claims | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal cuts the drain short.

    `claims` are the relay's sockets as far as they have been claimed already.

    SIGHUP replaces the relay workers. SIGUSR2 replaces the whole program by the one that is installed now.
    Both stay pending until the start is over, and while one of them is acted on.
    """
    signals.hold()
    left = LeftBehind()
    sidecar = Sidecar(settings, claims, upgraded=left.upgraded)
    reaping = asyncio.create_task(left.reap())
    ending = asyncio.create_task(_sent(signals.ENDING))
    running = asyncio.create_task(_run(sidecar, left, ending))
    await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    running.cancel()
    await asyncio.wait({running})
    drained = asyncio.create_task(_drain(sidecar, left))
    again = asyncio.create_task(_sent(signals.ENDING))
    await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not drained.done():
        log.warning("a second signal: open streams are cut")
        left.kill()
        await sidecar.cut()
    await drained
    await reaping
    log.info("stopped")


async def _sent(numbers: Collection[signal.Signals]) -> signal.Signals:
    """Wait until one of these is sent. A look leaves none half taken for an `exec` to lose."""
    while True:
        if (number := signals.take(numbers)) is not None:
            return number
        await asyncio.sleep(LOOK)


async def _run(sidecar: Sidecar, left: LeftBehind, ending: "asyncio.Task[signal.Signals]") -> None:
    """Start, then renew when asked to: one thing after the other, however many signals come."""
    await sidecar.start()
    while True:
        await _room(sidecar, left)
        match await _sent(signals.RENEWING):
            case signal.SIGHUP:
                await sidecar.replace_workers()
            case _ if not ending.done():
                _upgrade(sidecar, left)


async def _room(sidecar: Sidecar, left: LeftBehind) -> None:
    """Until few enough workers of before finish their streams: each has memory of its own."""
    most, waits = MOST_BEFORE * sidecar.settings.workers, False
    while len(left.pids) + sidecar.leaving > most:
        if not waits:
            log.warning("SIGHUP and SIGUSR2 wait: earlier workers still finish their streams")
        waits = True
        await asyncio.sleep(LOOK)


async def _drain(sidecar: Sidecar, left: LeftBehind) -> None:
    timeout = sidecar.settings.drain_timeout
    await asyncio.gather(sidecar.stop(timeout), left.drain(timeout))


def _upgrade(sidecar: Sidecar, left: LeftBehind) -> None:
    """Become the program that is installed now: same process, same arguments.

    The workers serve on until those of the new program have their sockets, and finish their streams.
    """
    if not isinstance(sidecar.relay, Workers):
        log.error("not upgraded: the requests that this process relays itself would be cut")
        return
    log.info("upgrading")
    left.leave(sidecar.relay.all_pids)
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError as error:
        left.stay()
        log.error("not upgraded", error=str(error))
