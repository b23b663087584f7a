"""Faults of processes and connections: pickers, model servers, the sidecar, Envoy, the clock."""

import asyncio
import contextlib
import random
import resource
import signal
import socket
import struct
import time

from chaos.account import Window
from chaos.fault import Faults, cut, gone, pause
from chaos.installation import PICK_TIMEOUT, Installation
from chaos.promise import HEARS
from testbed.link import Mode
from testbed.looks import first_free_descriptor

FAULTS = Faults()


def _pickers(inst: Installation, dice: random.Random, window: Window) -> list[str]:
    """One of the pickers, or both."""
    names = dice.choice([["open"], ["close"], ["open", "close"]])
    window.notes.append(f"pickers {', '.join(names)}")
    return names


# --- the picker ---


@FAULTS.add("picker killed", "picker")
async def picker_killed(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGKILL, and a pause before the restart."""
    names = _pickers(inst, dice, window)
    for name in names:
        await inst.pickers[name].kill()
        await inst.links[name].down()
    await pause(dice, 0.2, 1.5)
    await asyncio.gather(*(inst.start_picker(name) for name in names))


@FAULTS.add("picker restarted", "picker")
async def picker_restarted(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGTERM, and an immediate restart."""
    for name in _pickers(inst, dice, window):
        await inst.pickers[name].stop()
        await inst.links[name].down()
        await inst.start_picker(name)


@FAULTS.add("picker stopped", "picker")
async def picker_stopped(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGSTOP for about the pick timeout, then SIGCONT."""
    names = _pickers(inst, dice, window)
    for name in names:
        inst.pickers[name].signal(signal.SIGSTOP)
    await pause(dice, 0.5 * PICK_TIMEOUT, 2.5 * PICK_TIMEOUT)
    for name in names:
        inst.pickers[name].signal(signal.SIGCONT)


def _link_fault(name: str, mode: Mode) -> None:
    @FAULTS.add(name, "picker")
    async def hurt(inst: Installation, dice: random.Random, window: Window) -> None:
        names = _pickers(inst, dice, window)
        for each in names:
            inst.links[each].set_mode(mode)
        await pause(dice, 1.0, 3.0)
        for each in names:
            inst.links[each].set_mode(Mode.GOOD)


_link_fault("picker's connections reset", Mode.RESET)
_link_fault("picker's connections garbled", Mode.GARBLE)
_link_fault("picker's connections drip", Mode.DRIP)
_link_fault("picker cut off", Mode.BLOCK)


# --- model servers ---


@FAULTS.add("model server killed", "model")
async def model_killed(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGKILL; its address refuses connections until the restart."""
    address = dice.choice(list(inst.models))
    cut(window, address)
    await inst.models[address].kill()
    gone(window)
    await pause(dice, 0.5, 2.0)
    await inst.start_model(address)


@FAULTS.add("model server resets", "model")
async def model_resets(inst: Installation, dice: random.Random, window: Window) -> None:
    """Another listener takes its place and resets every connection."""
    address = dice.choice(list(inst.models))
    cut(window, address)
    await inst.models[address].kill()
    gone(window)
    host, _, port = address.rpartition(":")

    def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.transport.abort()

    async with await asyncio.start_server(reset, host, int(port)):
        await pause(dice, 0.3, 1.0)
    await inst.start_model(address)


# --- the sidecar ---


@FAULTS.add("worker killed", "sidecar")
async def worker_killed(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGKILL for one relay worker."""
    victim = dice.choice(inst.worker_pids)
    cut(window, f"worker {victim}")
    inst.signal(victim, signal.SIGKILL)
    await inst.gone(victim)
    gone(window)
    await inst.workers_replaced([victim])


@FAULTS.add("workers replaced (SIGHUP)", "sidecar")
async def workers_replaced(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGHUP, as an operator sends it after an update of dependencies."""
    del dice, window
    old = inst.worker_pids
    inst.sidecar.signal(signal.SIGHUP)
    await inst.workers_replaced(old)
    await inst.calm(HEARS)


@FAULTS.add("signal storm", "sidecar")
async def signal_storm(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGHUP and SIGUSR2 at random moments, also while an earlier one is carried out."""
    old = inst.worker_pids
    for _ in range(dice.randrange(2, 8)):
        number = dice.choice((signal.SIGHUP, signal.SIGUSR2))
        window.notes.append(number.name)
        inst.sidecar.signal(number)
        await pause(dice, 0.0, dice.choice((0.02, 0.2, 1.0)))
    await inst.workers_replaced(old)
    await inst.ready()
    await inst.calm(HEARS)


async def _started(inst: Installation, window: Window, began: float) -> None:
    await inst.start_sidecar()
    await inst.ready()
    window.notes.append(f"ready after {time.monotonic() - began:.1f} s")


async def _restarted(inst: Installation, window: Window) -> None:
    began = window.refuses = time.monotonic()
    code = await inst.drain_sidecar()
    window.notes.append(f"exit {code} after {time.monotonic() - began:.1f} s")
    await _started(inst, window, began)


@FAULTS.add("sidecar restarted", "sidecar", held=True)
async def sidecar_restarted(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGTERM, drain and restart, with a holder of the relay's sockets."""
    del dice
    await inst.held()
    await _restarted(inst, window)


@FAULTS.add("sidecar restarted, not held", "sidecar")
async def sidecar_restarted_not_held(
    inst: Installation, dice: random.Random, window: Window
) -> None:
    """The same without a holder."""
    del dice
    if inst.holds:
        await inst.kill_holder()
    await _restarted(inst, window)
    if inst.holds:
        await inst.start_holder()
        await inst.held()


@FAULTS.add("sidecar killed, workers too", "sidecar", held=True)
async def all_killed(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGKILL for every process of the sidecar, as when its container is killed, and a restart."""
    del dice
    await inst.held()
    began = time.monotonic()
    workers = inst.worker_pids
    cut(window, f"control process {inst.sidecar.pid}, workers {workers}")
    await inst.kill_sidecar()
    for pid in workers:
        inst.signal(pid, signal.SIGKILL)
    for pid in workers:
        await inst.gone(pid)
    gone(window)
    await _started(inst, window, began)


@FAULTS.add("holder restarted", "sidecar", held=True)
async def holder_restarted(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGKILL for the holder, and another holder after a pause."""
    del window
    await inst.kill_holder()
    await pause(dice, 0.2, 2.0)
    await inst.start_holder()
    await inst.held()


@FAULTS.add("sidecar killed", "sidecar")
async def sidecar_killed(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGKILL for the control process, and a restart. Its workers finish their streams."""
    del dice
    cut(window, f"control process {inst.sidecar.pid}")
    began = time.monotonic()
    await inst.kill_sidecar()
    gone(window)
    await _started(inst, window, began)
    await inst.calm(HEARS)


@FAULTS.add("sidecar upgraded (SIGUSR2)", "sidecar")
async def sidecar_upgraded(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGUSR2: the control process replaces its program, and then its workers."""
    del dice, window
    old = inst.worker_pids
    inst.sidecar.signal(signal.SIGUSR2)
    await inst.workers_replaced(old)
    await inst.ready()
    await inst.calm(HEARS)


@FAULTS.add("descriptors exhausted", "sidecar")
async def descriptors_exhausted(inst: Installation, dice: random.Random, window: Window) -> None:
    """The workers, or the control process, cannot open further descriptors for a time."""
    victims = dice.choice([inst.worker_pids, [inst.sidecar.pid]])
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in victims}
    for pid, (_, hard) in before.items():
        limit = first_free_descriptor(pid)
        who = "the control process" if pid == inst.sidecar.pid else f"worker {pid}"
        window.notes.append(f"{who} keeps {limit}")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    await pause(dice, 0.5, 2.5)
    for pid, limits in before.items():
        # A worker may have exited as it was told to.
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    await inst.ready()


CLOCK_JUMPS = "clock jumps"


@FAULTS.add(CLOCK_JUMPS, "clock")
async def clock_jumps(inst: Installation, dice: random.Random, window: Window) -> None:
    """The wall clock of all processes of the sidecar jumps by up to a day."""
    for _ in range(dice.randrange(2, 6)):
        seconds = dice.randrange(-86_400, 86_400)
        window.notes.append(f"{seconds:+d} s")
        inst.set_clock(seconds)
        await pause(dice, 0.1, 0.6)
    inst.set_clock(0)


# --- Envoy ---


@FAULTS.add("Envoy killed", "envoy")
async def envoy_killed(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGKILL, and a restart."""
    cut(window, "SIGKILL")
    await inst.envoy.process.kill()
    gone(window)
    await envoy_restarted(inst, dice, window)


@FAULTS.add("Envoy restarted (SIGTERM)", "envoy")
async def envoy_restarted(inst: Installation, dice: random.Random, window: Window) -> None:
    """SIGTERM, on which Envoy closes its streams, and a restart."""
    del dice, window
    await inst.stop_envoy()
    await inst.start_envoy()
    await inst.ready()
