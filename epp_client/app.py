"""The control process: runs a sidecar from start to exit and acts on signals. It relays nothing itself."""

import asyncio
import os
import signal
import sys

import structlog

from epp_client import signals
from epp_client.logs import set_level
from epp_client.settings import ServeSettings
from epp_client.sidecar import Sidecar
from epp_client.signal_waits import taken
from epp_client.version import COMPILE, NOT_COMPILED, VERSION, hot_path_compiled
from epp_client.workers.claims import Claims
from epp_client.workers.left_behind import LeftBehind
from epp_client.workers.supervisor import Workers

log = structlog.get_logger(__name__)

MAX_LEAVING = 4
"""Replaced workers, per current worker, that may finish streams at once. SIGHUP and SIGUSR2 wait while
there are more."""
POLL_INTERVAL = 0.05
"""Seconds between two polls for the end of workers."""


async def serve(settings: ServeSettings, claims: Claims | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal cuts the drain short.

    `claims` are the relay's sockets that have been claimed already.

    SIGHUP replaces the relay workers. SIGUSR2 replaces the whole program with the installed version.
    Both stay pending during the start, and while an earlier one is carried out. SIGUSR1 switches the log
    level at any time.
    """
    signals.block()
    say_whether_compiled()
    left = LeftBehind()
    sidecar = Sidecar(settings, claims, upgraded=left.upgraded)
    reaping = asyncio.create_task(left.reap())
    switching = asyncio.create_task(_switch_level(sidecar))
    ending = asyncio.create_task(taken(signals.ENDING))
    running = asyncio.create_task(_run(sidecar, left, ending))
    await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    running.cancel()
    await asyncio.wait({running})
    drained = asyncio.create_task(_drain(sidecar, left))
    again = asyncio.create_task(taken(signals.ENDING))
    await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not drained.done():
        log.warning("second signal: cutting open streams")
        left.kill()
        await sidecar.cut()
    await drained
    await reaping
    switching.cancel()
    log.info("stopped")


def say_whether_compiled() -> None:
    """One log line, a warning if requests run through plain Python."""
    if hot_path_compiled():
        log.info("the hot path is compiled", version=VERSION)
    else:
        log.warning(NOT_COMPILED, version=VERSION, hint=COMPILE)


async def _run(sidecar: Sidecar, left: LeftBehind, ending: "asyncio.Task[signal.Signals]") -> None:
    """Start, then carry out SIGHUP and SIGUSR2, one at a time."""
    await sidecar.start()
    while True:
        await _until_few_leave(sidecar, left)
        match await taken(signals.RENEWING):
            case signal.SIGHUP:
                await sidecar.replace_workers()
            case _ if not ending.done():
                _upgrade(sidecar, left)


async def _switch_level(sidecar: Sidecar) -> None:
    """At each SIGUSR1 log at level debug, or again at the level of the settings."""
    usual, debug = sidecar.settings.log_level, False
    while True:
        await taken(signals.LOGGING)
        debug = not debug
        level = "debug" if debug else usual
        set_level(level)
        sidecar.log_at(level)
        log.warning("the log level has changed", to=level)


async def _until_few_leave(sidecar: Sidecar, left: LeftBehind) -> None:
    """Wait until at most MAX_LEAVING replaced workers per current one are left: each has memory of its
    own."""
    most, waits = MAX_LEAVING * sidecar.settings.workers, False
    while len(left.pids) + sidecar.leaving > most:
        if not waits:
            log.warning(
                "SIGHUP and SIGUSR2 are delayed: too many replaced workers still finish their streams"
            )
        waits = True
        await asyncio.sleep(POLL_INTERVAL)


async def _drain(sidecar: Sidecar, left: LeftBehind) -> None:
    timeout = sidecar.settings.drain_timeout
    await asyncio.gather(sidecar.stop(timeout), left.drain(timeout))


def _upgrade(sidecar: Sidecar, left: LeftBehind) -> None:
    """Replace this program with the installed version: same process, same arguments.

    The workers serve until those of the new program have taken their sockets, then finish their streams.
    """
    if not isinstance(sidecar.relay, Workers):
        log.error(
            "not upgraded: with --workers 0 this process relays requests itself, and they would be cut"
        )
        return
    log.info("upgrading")
    left.leave(sidecar.relay.all_pids)
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError as error:
        left.stay()
        log.error("not upgraded: the installed program cannot be started", error=str(error))
