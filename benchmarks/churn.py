"""(d) A pool of thousands of endpoints that changes 100 times a second, compared with the same pool at
rest.

This module changes the store of a sidecar's control process directly. Every change goes to the relay worker
and over EDS to Envoy.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import uvloop

from benchmarks.measure import Bench, Runs
from benchmarks.processes import cpu_seconds
from benchmarks.rig import Rig
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings, serve_settings
from epp_client.sidecar import Sidecar
from epp_client.xds.cooldowns import MAX_COOLDOWN
from epp_client.xds.lingering import LINGER

POOL = "default/relay"
CHANGES = 100
"""Changes per second."""


def large(table: EndpointTable, count: int) -> EndpointTable:
    """The table with `count` more endpoints, which are never picked."""
    members = dict(table.by_key)
    for number in range(count):
        ip = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        members[f"{ip}:8000"] = Endpoint(f"{ip}:8000", ip, 8000, f"pod-{number}", True, 1)
    return _table(members, table.generation + 1)


def _table(members: dict[str, Endpoint], generation: int) -> EndpointTable:
    return EndpointTable(MappingProxyType(members), generation)


def changed(table: EndpointTable, number: int) -> EndpointTable:
    """Replace one endpoint by a new one."""
    members = table.by_key.copy()
    generation = table.generation + 1
    del members[next(itertools.islice(members, 1 + number % (len(members) - 1), None))]
    ip = f"11.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    members[f"{ip}:8000"] = Endpoint(f"{ip}:8000", ip, 8000, f"new-{number}", True, generation)
    return _table(members, generation)


class Lags:
    """Measures the time from each change of the store to Envoy's acknowledgement."""

    def __init__(self, store: PoolStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._waiting: deque[tuple[int, float]] = deque()
        self._seconds: list[float] = []
        store.subscribe(self._changed)

    def published(self, generation: int) -> None:
        """Note a change that is made now."""
        self._waiting.append((generation, self._clock()))

    def _changed(self, _: object) -> None:
        acknowledged = self._store.snapshots[POOL].acknowledged
        while self._waiting and acknowledged is not None and self._waiting[0][0] <= acknowledged:
            self._seconds.append(self._clock() - self._waiting.popleft()[1])

    def take(self) -> list[float]:
        """The times since the last call, in ms."""
        taken, self._seconds = self._seconds, []
        return [1000 * seconds for seconds in taken]

    def write(self, path: Path) -> None:
        """Write the times of `take` to a file, atomically."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self.take()))
        new.rename(path)


def _settings(arguments: argparse.Namespace) -> ServeSettings:
    return serve_settings(
        {
            "pools": arguments.pools,
            "socket": arguments.socket,
            "xds_socket": arguments.xds_socket,
            "admin": "127.0.0.1:0",
            "log_level": "error",
        }
    )


async def serve(arguments: argparse.Namespace) -> None:
    """Run a sidecar with a pool that changes.

    SIGUSR1 starts the changes and SIGUSR2 stops them and writes the lags; SIGHUP makes a single change.
    After SIGALRM, until SIGUSR2, a pick waits for the new endpoint of each change.
    """
    sidecar = Sidecar(_settings(arguments))
    await sidecar.start()
    store = sidecar.store
    while not store.synced:
        await asyncio.sleep(0.01)
    churning, stop, eager = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    lags = Lags(store, time.monotonic)
    numbers = itertools.count()

    def publish(table: EndpointTable) -> None:
        snapshots = {s.pool.name: s for s in store.snapshots.values()}
        old = store.snapshots[POOL]
        lags.published(table.generation)
        store.publish({**snapshots, old.pool.name: replace(old, table=table)})

    def change() -> None:
        publish(changed(store.snapshots[POOL].table, next(numbers)))
        if eager.is_set():
            sidecar.want((POOL,))

    def rest() -> None:
        churning.clear()
        eager.clear()
        # Have Envoy sent everything now, so that nothing is left for the quiet state.
        for later in (0.0, LINGER + 0.2):
            loop.call_later(later, sidecar.want, (POOL,))
        lags.write(lags_file(arguments.socket.parent))

    loop.add_signal_handler(signal.SIGUSR1, churning.set)
    loop.add_signal_handler(signal.SIGUSR2, rest)
    loop.add_signal_handler(signal.SIGHUP, change)
    loop.add_signal_handler(signal.SIGALRM, eager.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    publish(large(store.snapshots[POOL].table, arguments.endpoints))

    async def churn() -> None:
        while True:
            await churning.wait()
            due = time.monotonic()
            while churning.is_set():
                change()
                due = max(due + 1 / CHANGES, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    task = asyncio.create_task(churn())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await sidecar.stop(0)
    if task.done():
        task.result()
    task.cancel()


def lags_file(folder: Path) -> Path:
    """Where `serve` leaves the lags, in ms, at SIGUSR2."""
    return folder / "lags.json"


class Control:
    """The control process of a rig whose native sidecar is `serve` above."""

    def __init__(self, rig: Rig) -> None:
        self._file = lags_file(rig.folder)
        self._pid = rig.pids["native control"][0]

    def start(self) -> None:
        """Change a hundred times a second."""
        os.kill(self._pid, signal.SIGUSR1)

    def want(self) -> None:
        """Have a pick wait for each new endpoint, until the rest."""
        os.kill(self._pid, signal.SIGALRM)

    def change(self) -> None:
        """Change once."""
        os.kill(self._pid, signal.SIGHUP)

    async def rest(self) -> list[float]:
        """Stop; how long Envoy took for each change since the last rest, in ms."""
        self._file.unlink(missing_ok=True)
        os.kill(self._pid, signal.SIGUSR2)
        async with asyncio.timeout(10):
            while not self._file.exists():
                await asyncio.sleep(0.01)
        lags: list[float] = json.loads(self._file.read_text())
        return lags


STATES = ("quiet", "churn", "wanted")
"""At rest; 100 changes a second; the same with a picker that always names the newest endpoint."""


async def churn(bench: Bench, endpoints: int) -> tuple[Runs, dict[str, Any]]:
    """Rounds of all states, and Envoy's delays for single changes and during churn."""
    control = Control(bench.rig)
    await settled(bench)
    alone = await lone_changes(bench, control)
    runs: Runs = []
    lags: dict[str, list[float]] = {state: [] for state in STATES}
    for number in range(bench.rounds):
        run: dict[str, Any] = {}
        turn = number % len(STATES)
        for state in STATES[turn:] + STATES[:turn]:
            bench.say(f"{endpoints} endpoints: round {number + 1} of {bench.rounds}, {state}")
            if state != "quiet":
                control.start()
            if state == "wanted":
                control.want()
            await asyncio.sleep(0.5)
            # Twice the seconds, as these clients pause between requests and a p99 needs many.
            load = {"connections": 8, "seconds": 2 * bench.seconds, "think": 0.01}
            result = await bench.load("native", **load)
            lags[state] += await control.rest()
            seconds = result["seconds"]
            kept = ("requests", "p50", "p90", "p99")
            run[state] = {key: result[key] for key in kept} | {
                "control_busy": result["cpu"]["native control"] / seconds,
                "worker_busy": result["cpu"]["native"] / seconds,
                "envoy_busy": result["cpu"]["envoy"] / seconds,
            }
            await asyncio.sleep(0.5 if state == "quiet" else LINGER + 1)
            # Changes that Envoy acknowledged after the load.
            lags[state] += await control.rest()
        runs.append({state: run[state] for state in STATES})
    return runs, {name: _shares(lags[name]) for name in STATES[1:]} | {"alone": _shares(alone)}


async def settled(bench: Bench) -> None:
    """Wait until Envoy is idle, and so has processed all endpoints."""
    pid, idle, busy = bench.rig.pids["envoy"][0], 0, 0.0
    for _ in range(300):
        before = cpu_seconds(pid)
        await asyncio.sleep(0.2)
        busy = cpu_seconds(pid) - before
        idle = idle + 1 if busy < 0.02 else 0
        if idle == 5:
            return
    raise RuntimeError(f"Envoy does not become idle: {busy / 0.2:.2f} cores")


async def lone_changes(bench: Bench, control: Control, count: int = 4) -> list[float]:
    """Envoy's delays for single changes of a pool at rest, in ms."""
    await control.rest()
    for number in range(count):
        bench.say(f"change {number + 1} of {count}, on its own")
        control.change()
        # Wait for the push of the removed endpoint, so that each change meets a pool at rest.
        await asyncio.sleep(LINGER + 2 * MAX_COOLDOWN)
    return await control.rest()


def _shares(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    return {
        "changes": len(values),
        "p50": values[len(values) // 2],
        "p99": values[min(len(values) - 1, int(len(values) * 0.99))],
        "max": values[-1],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=Path)
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--xds-socket", type=Path)
    parser.add_argument("--endpoints", type=int)
    uvloop.run(serve(parser.parse_args()))
