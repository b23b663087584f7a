"""The soak: steady load and gentle faults for hours, with samples of memory and descriptors."""

import asyncio
import random
import tempfile
import time
from pathlib import Path

from chaos.account import account
from chaos.installation import Installation
from chaos.load import LAST
from chaos.patience import NotBack
from chaos.promise import PROMISES
from chaos.run import Part, Tell, Told, known_faults, one_fault, start_load
from chaos.samples import Curves, Sampler
from chaos.source import SourceName
from epp_client.settings import TransportName, UpstreamMode
from testbed.deaths import Death, deaths_noted
from testbed.process import ProcessFailed

GENTLE = {
    "picker restarted",
    "picker stopped",
    "picker's connections reset",
    "picker's connections drip",
    "endpoints churn",
    "manifests broken",
    "API server stopped",
    "API server killed",
    "API server killed, Pods changed",
    "API watches expired (410)",
    "API server slow",
    "API connections reset",
}
"""Faults that do not replace processes of the sidecar, so that each curve is of one process."""
FAULT_INTERVAL = (10.0, 30.0)
"""Shortest and longest seconds between two faults."""


async def soak(
    seconds: float,
    transport: TransportName,
    mode: UpstreamMode,
    source: SourceName,
    seed: int,
    *,
    rate: float,
    progress: Told,
    tell: Tell,
) -> tuple[Part, Curves]:
    """Run the soak. Failures, such as a curve that is not flat, are in the part."""
    dice = random.Random(seed)
    part = Part(transport, mode, account([], [], {}), [], [])
    curves = Curves()
    with (
        tempfile.TemporaryDirectory(prefix="epp-client-soak-") as folder,
        deaths_noted() as deaths,
    ):
        installation = Installation(
            Path(folder), transport, mode, source=source, seed=dice.getrandbits(32)
        )
        try:
            await installation.start()
            sampler = Sampler(installation.processes, installation.metrics)
            curves = sampler.curves
            load, lines = await start_load(
                installation, dice.getrandbits(32), rate=rate, faulty_share=0.1
            )
            sampling = asyncio.create_task(sampler.run())
            hurting = asyncio.create_task(_hurt_gently(installation, dice, part, tell))
            began = time.monotonic()
            try:
                while time.monotonic() < began + seconds:
                    done, _ = await asyncio.wait({sampling, hurting}, timeout=0.5)
                    for task in done:
                        task.result()
                    lines.read()
                    installation.note_deaths()
                    if deaths:
                        break
                    progress(time.monotonic() - began, lines.outcomes)
            finally:
                for task in (hurting, sampling):
                    task.cancel()
                await asyncio.gather(hurting, sampling, return_exceptions=True)
                if code := await load.stop(LAST):
                    part.failures.append(f"the client ended with {code}:\n{load.tail}")
                lines.read()
                lines.close()
                part.lines = lines.lines
            if left := await installation.settled():
                part.failures.append(f"after the last request there is still {left}")
            await sampler.sample()
        except (ProcessFailed, NotBack) as error:
            part.failures.append(str(error))
        finally:
            await installation.stop()
            part.log = installation.log.read_text(errors="replace")[-20_000:]
    _judge(part, curves, deaths, installation)
    return part, curves


def _judge(part: Part, curves: Curves, deaths: list[Death], installation: Installation) -> None:
    part.account = account(part.lines, part.windows, PROMISES)
    part.failures += map(str, deaths)
    part.failures += [f"a sidecar ended with {code}" for code in installation.exits if code]
    part.failures += [
        f"{name} is {found.says}" for name, found in curves.trends.items() if not found.flat
    ]


async def _hurt_gently(
    installation: Installation, dice: random.Random, part: Part, tell: Tell
) -> None:
    faults = [
        fault
        for fault in known_faults()[0]
        if fault.name in GENTLE and fault.possible(installation)
    ]
    while True:
        await asyncio.sleep(dice.uniform(*FAULT_INTERVAL))
        await one_fault(installation, dice.choice(faults), dice, part, tell)
