"""Runs one part: an installation, its load, and faults at random moments until the time is over."""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.account import Account, Line, Window, account, line_of
from chaos.clock import clock_library
from chaos.fault import Fault
from chaos.faults import CLOCK_JUMPS, FAULTS
from chaos.installation import Installation
from chaos.load import LAST
from chaos.patience import NotBack
from chaos.pool_faults import POOL_FAULTS
from chaos.promise import PROMISES
from chaos.route_faults import ROUTE_FAULTS
from chaos.routed import RoutedInstallation
from epp_client.settings import TransportName, UpstreamMode
from testbed.deaths import Death, deaths_noted
from testbed.process import Process, ProcessFailed

QUIET = 1.0
"""Seconds of load before the first fault."""


@dataclass
class Part:
    """The results of one combination of transport and upstream mode."""

    transport: TransportName
    mode: UpstreamMode
    account: Account
    lines: list[Line]
    windows: list[Window]
    failures: list[str] = field(default_factory=list)
    """Failures other than requests: a process that died, a part that did not recover."""
    log: str = ""
    """The end of the sidecar's log, if there were failures."""

    @property
    def name(self) -> str:
        """Such as `native/override_host`."""
        return f"{self.transport}/{self.mode}"


class Deck:
    """Draws faults in random order, each once before any is repeated."""

    def __init__(self, dice: random.Random, faults: list[Fault]) -> None:
        self._dice = dice
        self._faults = faults
        self._cards: list[Fault] = []

    def draw(self, inst: Installation, not_of: str = "") -> Fault | None:
        """The next fault that is possible there and not of the group `not_of`; None if there is none.
        Faults that are not possible there stay for other installations.
        """
        if not any(card.possible(inst) for card in self._cards):
            self._cards += self._dice.sample(self._faults, len(self._faults))
        for at, card in enumerate(self._cards):
            if card.possible(inst) and card.group != not_of:
                return self._cards.pop(at)
        return None


class Lines:
    """Reads the client's lines while they are written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open()
        self._rest = ""
        self.lines: list[Line] = []
        self.outcomes: Counter[str] = Counter()

    def read(self) -> None:
        """Read new lines."""
        text = self._rest + self._file.read()
        whole, _, self._rest = text.rpartition("\n")
        for raw in whole.splitlines():
            line = line_of(json.loads(raw))
            self.lines.append(line)
            self.outcomes[line.outcome] += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()


Told = Callable[[float, Counter[str]], None]
"""Is called with the seconds of load and the outcomes so far."""
Tell = Callable[[str], None]
"""Is called with a text for each event."""


async def start_load(
    installation: Installation, seed: int, *, rate: float, faulty_share: float
) -> tuple[Process, Lines]:
    """Start the client."""
    out = installation.folder / "requests.jsonl"
    out.touch()
    arguments = [
        sys.executable, "-m", "chaos.load", installation.url, str(out), "--seed", str(seed),
        "--rate", str(rate), "--faulty-share", str(faulty_share),
    ]  # fmt: skip
    if installation.mode is UpstreamMode.OVERRIDE_HOST:
        arguments.append("--ranked")
    if isinstance(installation, RoutedInstallation):
        arguments += installation.routing.load_options
    return await Process.start(*arguments), Lines(out)


async def run_part(
    installation: Installation,
    deck: Deck,
    dice: random.Random,
    seconds: float,
    *,
    rate: float,
    progress: Told,
    tell: Tell,
) -> Part:
    """Run one part with `seconds` of load, and stop the installation afterwards."""
    part = Part(installation.transport, installation.mode, account([], [], {}), [], [])
    with deaths_noted() as deaths:
        await _load_and_hurt(installation, deck, dice, seconds, part, rate, progress, tell, deaths)
    part.failures += map(str, deaths)
    part.failures += [f"a sidecar ended with {code}" for code in installation.exits if code]
    part.account = account(part.lines, part.windows, PROMISES, why_wrong(installation))
    if part.failures or part.account.breaches:
        log = installation.log
        part.log = log.read_text(errors="replace")[-20_000:] if log.exists() else ""
    return part


def why_wrong(installation: Installation) -> Callable[[Line], str]:
    """What judges answers of changing routes."""
    if isinstance(installation, RoutedInstallation):
        return installation.routing.timeline.why_wrong
    return lambda line: ""


async def _load_and_hurt(
    installation: Installation,
    deck: Deck,
    dice: random.Random,
    seconds: float,
    part: Part,
    rate: float,
    progress: Told,
    tell: Tell,
    deaths: list[Death],
) -> None:
    try:
        await installation.start()
        load, lines = await start_load(
            installation, dice.getrandbits(32), rate=rate, faulty_share=0.25
        )
        began = time.monotonic()

        async def watch() -> None:
            told = 0
            while True:
                await asyncio.sleep(0.25)
                lines.read()
                progress(time.monotonic() - began, lines.outcomes)
                installation.note_deaths()
                for death in deaths[told:]:
                    tell(f"DIED: {death}")
                told = len(deaths)

        watching = asyncio.create_task(watch())
        try:
            await _hurt(installation, deck, dice, began + seconds, part, tell)
        finally:
            load_code = await load.stop(LAST)
            watching.cancel()
            lines.read()
            lines.close()
            part.lines = lines.lines
        if load_code:
            part.failures.append(f"the client ended with {load_code}:\n{load.tail}")
        if left := await installation.settled():
            part.failures.append(f"after the last request there is still {left}")
    except (ProcessFailed, NotBack) as error:
        part.failures.append(str(error))
    finally:
        await installation.stop()


async def _hurt(
    installation: Installation,
    deck: Deck,
    dice: random.Random,
    until: float,
    part: Part,
    tell: Tell,
) -> None:
    await asyncio.sleep(QUIET)
    async with asyncio.TaskGroup() as group:
        if isinstance(installation, RoutedInstallation):
            own = random.Random(dice.getrandbits(32))
            group.create_task(_change_routes(installation, own, until, part, tell))
        await _hurt_processes(installation, deck, dice, until, part, tell)


async def _change_routes(
    installation: Installation, dice: random.Random, until: float, part: Part, tell: Tell
) -> None:
    """Change routes all the time, beside all other faults."""
    deck = Deck(dice, [*ROUTE_FAULTS])
    while time.monotonic() < until:
        fault = deck.draw(installation)
        assert fault is not None
        await one_fault(installation, fault, random.Random(dice.getrandbits(32)), part, tell)
        await asyncio.sleep(dice.uniform(0.0, 0.5))


async def _hurt_processes(
    installation: Installation,
    deck: Deck,
    dice: random.Random,
    until: float,
    part: Part,
    tell: Tell,
) -> None:
    while time.monotonic() < until:
        faults = [deck.draw(installation)]
        if faults[0] and dice.random() < 0.25:
            faults.append(deck.draw(installation, not_of=faults[0].group))
        await asyncio.gather(
            *(
                one_fault(installation, fault, random.Random(dice.getrandbits(32)), part, tell)
                for fault in faults
                if fault
            )
        )
        await asyncio.sleep(dice.uniform(0.1, 1.0))


async def one_fault(
    installation: Installation, fault: Fault, dice: random.Random, part: Part, tell: Tell
) -> None:
    """Inject one fault and record its window."""
    window = Window(fault.name, part.name, time.monotonic())
    part.windows.append(window)
    try:
        await fault.hurt(installation, dice, window)
    finally:
        window.ended = time.monotonic()
        notes = f" ({'; '.join(window.notes)})" if window.notes else ""
        tell(f"{fault.name}, {window.ended - window.began:.1f} s{notes}")


def known_faults() -> tuple[list[Fault], list[str]]:
    """The faults that this machine can inject, and why others are missing."""
    faults = [*FAULTS, *POOL_FAULTS]
    if clock_library() is not None:
        return faults, []
    why = f"{CLOCK_JUMPS}: libfaketime is not installed (apt-get install faketime)"
    return [fault for fault in faults if fault.name != CLOCK_JUMPS], [why]
