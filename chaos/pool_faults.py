"""Faults of the source of pools: changing endpoints, an API server that is unreachable, slow or compacts
its history."""

import random
import signal
from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import Any

from chaos.account import Window
from chaos.fault import Faults, pause
from chaos.installation import Installation
from chaos.objects import DEAD_POD
from chaos.source import ApiServer, ManifestFolder, SourceName
from epp_client.settings import UpstreamMode
from testbed.link import Mode

POOL_FAULTS = Faults()


async def _change(inst: Installation, dice: random.Random) -> None:
    """Make one Pod unready, delete it, or add a Pod where nothing listens. Two Pods stay as they are."""
    objects: list[dict[str, Any]] = deepcopy(inst.objects)
    victim = dice.choice([item for item in objects if item["kind"] == "Pod"])
    match dice.choice(["unready", "gone", "dead pod"]):
        case "unready":
            victim["status"]["conditions"][0]["status"] = "False"
        case "gone":
            objects.remove(victim)
        case _ if inst.mode is UpstreamMode.OVERRIDE_HOST:
            objects.append(DEAD_POD)
    await inst.source.write(objects)


async def _restore(inst: Installation) -> None:
    await inst.source.write(inst.objects)
    await inst.followed()


@POOL_FAULTS.add("endpoints churn", "pool")
async def endpoints_churn(inst: Installation, dice: random.Random, window: Window) -> None:
    """Pods change several times a second. Two stay as they are."""
    del window
    for _ in range(dice.randrange(4, 12)):
        await _change(inst, dice)
        await pause(dice, 0.05, 0.4)
    await _restore(inst)


@POOL_FAULTS.add("manifests broken", "pool", SourceName.MANIFESTS)
async def manifests_broken(inst: Installation, dice: random.Random, window: Window) -> None:
    """An invalid YAML file."""
    del window
    assert isinstance(inst.source, ManifestFolder)
    await inst.source.write("kind: [unclosed")
    await pause(dice, 0.5, 2.0)
    await _restore(inst)


Trouble = Callable[[ApiServer, Installation, random.Random], Awaitable[None]]


def _api_fault(name: str) -> Callable[[Trouble], Trouble]:
    def register(trouble: Trouble) -> Trouble:
        @POOL_FAULTS.add(name, "pool", SourceName.API)
        async def hurt(inst: Installation, dice: random.Random, window: Window) -> None:
            del window
            assert isinstance(inst.source, ApiServer)
            await trouble(inst.source, inst, dice)
            await _restore(inst)

        return trouble

    return register


@_api_fault("API server stopped")
async def api_stopped(api: ApiServer, inst: Installation, dice: random.Random) -> None:
    """SIGSTOP: connections stay open without answers."""
    api.process.signal(signal.SIGSTOP)
    await pause(dice, 1.0, 5.0)
    api.process.signal(signal.SIGCONT)


@_api_fault("API server killed")
async def api_killed(api: ApiServer, inst: Installation, dice: random.Random) -> None:
    """SIGKILL, a pause, and a restart with the same state."""
    await api.kill()
    await pause(dice, 0.2, 3.0)
    await api.start_process()
    await api.connect()


@_api_fault("API server killed, Pods changed")
async def api_killed_and_changed(api: ApiServer, inst: Installation, dice: random.Random) -> None:
    """The same, but Pods change meanwhile, which no watch reports."""
    await api.kill()
    await pause(dice, 0.2, 2.0)
    await api.start_process()
    await _change(inst, dice)
    if dice.random() < 0.5:
        api.process.signal(signal.SIGUSR1)
    await api.connect()
    await inst.followed()


@_api_fault("API watches expired (410)")
async def api_expired(api: ApiServer, inst: Installation, dice: random.Random) -> None:
    """The history is compacted repeatedly while watches are open and Pods change."""
    for _ in range(dice.randrange(2, 6)):
        await _change(inst, dice)
        api.process.signal(signal.SIGUSR1)
        await pause(dice, 0.05, 0.6)


def _link_fault(name: str, mode: Mode) -> None:
    @_api_fault(name)
    async def trouble(api: ApiServer, inst: Installation, dice: random.Random) -> None:
        api.link.set_mode(mode)
        for _ in range(dice.randrange(2, 5)):
            await _change(inst, dice)
            await pause(dice, 0.2, 1.2)
        api.link.set_mode(Mode.GOOD)


_link_fault("API server slow", Mode.DRIP)
_link_fault("API server cut off", Mode.BLOCK)
_link_fault("API connections reset", Mode.RESET)
