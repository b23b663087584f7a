"""What a relay costs at least, on the sidecar's event loop and in C++.

`make bench-floor` measures, side by side, the CPU per request of a relay on uvloop that copies bytes and
reads none (`copying`), of nghttpx, and of the compiled sidecar.
"""

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.listeners import admin_of, bootstrap
from benchmarks.measure import Bench, Runs
from benchmarks.processes import SidecarProcess, children
from benchmarks.rig import Rig, start_peers
from benchmarks.rivals.running import command, start
from testbed.envoy import running_envoy

WAYS = ("nghttpx", "copying", "native")
console = Console(width=140, soft_wrap=True)


async def measure(rounds: int, seconds: float, connections: list[int]) -> dict[int, Runs]:
    """The rows of each way, by connections."""
    async with AsyncExitStack() as owner:
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-bench-")))
        rig = Rig(folder=folder)
        _, picker = await start_peers(owner, rig)
        xds = folder / "xds.sock"
        sidecar = await SidecarProcess.start(owner, folder, "native", xds)
        sockets = {"native": sidecar.socket}
        rig.pids["native"] = children(sidecar.process.pid)
        rig.pids["native control"] = [sidecar.process.pid]
        copying = folder / "copying.sock"
        arguments = {
            "nghttpx": command("nghttpx", folder / "nghttpx.sock", picker),
            "copying": [
                sys.executable, "-m", "benchmarks.peers.copying", str(copying), picker,
            ],
        }  # fmt: skip
        for way, program in arguments.items():
            sockets[way] = folder / f"{way}.sock"
            rig.pids[way] = [(await start(owner, program, sockets[way])).pid]
        document, rig.ways = bootstrap(sockets, xds, picker)
        envoy = await owner.enter_async_context(running_envoy(document, admin_of(document)))
        rig.pids["envoy"] = [envoy.process.pid]
        bench = Bench(rig, lambda text: console.print(f"[dim]{text}"), rounds, seconds)
        for way in WAYS:
            await bench.load(way, connections=16, seconds=0.5)
        return {
            number: await bench.compare(
                WAYS, f"{number} connections", connections=number, seconds=seconds
            )
            for number in connections
        }


def main(
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of load, for each way.")] = 2.0,
    connections: Annotated[str, typer.Option(help="Comma-separated.")] = "16,64",
) -> None:
    """Measure what a relay costs at least."""
    for number, runs in asyncio.run(
        measure(rounds, seconds, [*map(int, connections.split(","))])
    ).items():
        table = Table("way", "relay µs", "times nghttpx", title=f"{number} connections")
        for way in WAYS:
            ratio = median(run[way]["cpu"] / run["nghttpx"]["cpu"] for run in runs)
            spent = median(run[way]["cpu"] for run in runs)
            table.add_row(way, f"{spent:.1f}", f"{ratio:.2f}")
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
