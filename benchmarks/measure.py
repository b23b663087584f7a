"""The parts of the benchmark. Each runs interleaved rounds of load over every way and returns rows.

A row is a dict of numbers; times are in microseconds, memory in MB. CPU is per request or chunk: `cpu` of
the relay with its control process, `control` of that process alone, `path` of Envoy and the relay, which is
what a user pays, and `cpu_all` of everything, with picker, model server and client. Ratios are taken within
a round, where all ways met the same state of the machine, and then their median.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.listeners import POOLS
from benchmarks.rig import LoadFailed, Rig, path_of
from benchmarks.rivals.running import BUILT

Row = dict[str, Any]
Runs = list[dict[str, Row]]
"""One dict of rows, by way, for each round."""
Say = Callable[[str], None]

RELAYS = (
    "direct", "nghttpx", "grpc-go", "grpc-go-typed", "tonic",
    "native", "native-python", "grpcio", "before",
)  # fmt: skip
RAW = tuple(way for way in RELAYS if way != "grpc-go-typed")
"""For streams. What typed messages cost is in the requests."""
OURS = tuple(way for way in RAW if way not in BUILT)
"""For prompts, which would take two minutes more with the rivals of our own."""
TRIES = 3
"""Attempts per row. A load with errors is reported and repeated."""


class Bench:
    """A rig, the extent of its loads, and failures."""

    def __init__(self, rig: Rig, say: Say, rounds: int, seconds: float) -> None:
        self.rig = rig
        self.say = say
        self.rounds = rounds
        self.seconds = seconds
        self.failures: list[str] = []
        """Loads with errors, which were repeated."""

    async def load(self, way: str, **load: Any) -> dict[str, Any]:
        """Run one load without errors.

        Raises:
            LoadFailed: every attempt had errors.
        """
        for left in reversed(range(TRIES)):
            try:
                return await self.rig.load(way, **load)
            except LoadFailed as error:
                self.failures.append(str(error))
                if not left:
                    raise
        raise AssertionError

    async def compare(self, ways: tuple[str, ...], label: str, **load: Any) -> Runs:
        """Run rounds of the same load over all available ways, in rotating order."""
        here = [way for way in ways if way in self.rig.ways or way in POOLS]
        runs = []
        for number in range(self.rounds):
            rows = {}
            turn = number % len(here)
            for way in here[turn:] + here[:turn]:
                self.say(f"{label}: round {number + 1} of {self.rounds}, {way}")
                rows[way] = await self._row(way, **load)
            runs.append(rows)
        return runs

    async def _row(self, way: str, **load: Any) -> Row:
        listener = way if way in self.rig.ways else "native"
        result = await self.load(listener, **{"path": path_of(way), **load})
        relay = relay_of(way)
        seconds, units = result["seconds"], result["units"]
        spent = {name: cpu / units * 1e6 for name, cpu in result["cpu"].items()}
        control = spent.get(f"{relay} control", 0.0)
        cpu = 0.0 if relay is None else spent[relay] + control
        kept = ("requests", "p50", "p90", "p99", "delay_p50", "delay_p90", "delay_p99")
        return {
            **{key: result[key] for key in kept},
            "rate": units / seconds,
            "cpu": cpu,
            "control": control,
            "path": spent["envoy"] + cpu,
            "cpu_all": sum(spent.values()) + result["client_cpu"] / units * 1e6,
            "memory": 0.0 if relay is None else self.rig.memory(relay),
            "busy": {
                **{name: cpu / seconds for name, cpu in result["cpu"].items()},
                "client": result["client_cpu"] / seconds,
            },
        }

    async def requests(self, numbers: tuple[int, ...]) -> dict[int, Runs]:
        """(a) Short POSTs, by connections."""
        ways = (*RELAYS, *(name for name in POOLS if name != "relay"))
        return {
            number: await self.compare(
                ways, f"requests, {number} connections", connections=number, seconds=self.seconds
            )
            for number in numbers
        }

    async def streams(self, numbers: tuple[int, ...]) -> dict[int, Runs]:
        """(b) Streamed responses, by streams, with about 4 000 chunks a second in all."""
        found = {}
        for number in numbers:
            interval = number * 1_000_000 // 4_000
            chunks = max(4, int(self.seconds * 1_000_000 / interval))
            path = f"/default/relay/stream?chunks={chunks}&interval_us={interval}"
            found[number] = await self.compare(
                RAW,
                f"{number} streams",
                connections=number, seconds=self.seconds, path=path, chunks=chunks,
            )  # fmt: skip
        return found

    async def prompts(self, sizes: tuple[int, ...]) -> dict[int, Runs]:
        """(c) Prompts by size in bytes."""
        return {
            size: await self.compare(
                OURS, f"prompts of {size} bytes", connections=8, seconds=self.seconds, size=size
            )
            for size in sizes
        }

    async def memory(self) -> dict[str, float]:
        """(f) A worker's resident MB, before this part and with 1 000 open streams."""
        self.say("memory of a worker with 1 000 streams")
        memory = {"after_load": self.rig.memory("native")}

        def steady() -> None:
            memory["streams_1000"] = self.rig.memory("native")

        await self.load(
            "native",
            connections=1000, seconds=0, chunks=4, steady=steady,
            path="/default/relay/stream?chunks=4&interval_us=1500000",
        )  # fmt: skip
        return memory


def relay_of(way: str) -> str | None:
    """The relay of a way, whose control process is charged with it; None if there is none."""
    return None if way == "direct" else "native" if way in POOLS else way


def summary(runs: Runs) -> dict[str, Row]:
    """Median, minimum and maximum over the rounds of each way's figures."""
    return {
        way: {
            key: {
                "median": median(values),
                "min": min(values),
                "max": max(values),
            }
            for key in row
            if key != "busy" and (values := [run[way][key] for run in runs])
        }
        for way, row in runs[0].items()
    }


def busy(runs: Runs) -> dict[str, dict[str, float]]:
    """Cores that each process kept busy, by way."""
    return {
        way: {name: median(run[way]["busy"][name] for run in runs) for name in row["busy"]}
        for way, row in runs[0].items()
    }


def ratios(runs: Runs, key: str, of: str, to: str) -> list[float]:
    """One way's figure divided by another's, per round; empty if either is missing."""
    if of not in runs[0] or to not in runs[0]:
        return []
    return [run[of][key] / run[to][key] for run in runs]


def differences(runs: Runs, key: str, of: str, to: str, scale: float = 1.0) -> list[float]:
    """One way's figure less another's, times `scale`, per round; empty if either is missing."""
    if of not in runs[0] or to not in runs[0]:
        return []
    return [(run[of][key] - run[to][key]) * scale for run in runs]
