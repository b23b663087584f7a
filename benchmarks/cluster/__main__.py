"""`make bench-cluster`: prints results and writes benchmarks/results/kubernetes.json and its plot.

It runs real etcd, kube-apiserver and Envoy beside the sidecar on this machine. Parts that are not measured
keep their earlier figures.
"""

import argparse
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from benchmarks.cluster.acknowledgements import PODS, acknowledgements
from benchmarks.cluster.gateway import gateway
from benchmarks.cluster.many import many
from benchmarks.cluster.plot import draw
from benchmarks.cluster.routing import routing
from benchmarks.report import RESULTS, machine
from testbed.build_cache import Unavailable
from testbed.cluster.binaries import ensure
from testbed.cluster.control_plane import ControlPlane, running_control_plane
from testbed.cluster.network import enter

FILE = RESULTS / "kubernetes.json"
CHANGES = 100
"""Changed routes of a Gateway."""
Part = Callable[[ControlPlane, Callable[[str], None]], Awaitable[dict[str, Any]]]


def _say(text: str) -> None:
    print(text, flush=True)


async def _main(parts: list[str], repetitions: int) -> None:
    known: dict[str, Part] = {
        "acknowledgements": lambda plane, say: acknowledgements(plane, say, repetitions),
        "routing": lambda plane, say: routing(plane, say, repetitions),
        "many": many,
        "gateway": lambda plane, say: gateway(plane, say, min(repetitions, CHANGES)),
    }
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = {part: before[part] for part in known if part in before}
    async with running_control_plane() as plane:
        for part in parts:
            load = os.getloadavg()[0]
            measured = await known[part](plane, _say)
            found[part] = {**measured, "load_before": round(load, 1)}
            _say(json.dumps({part: found[part]}, indent=2))
    found["machine"] = machine()
    found["pods"] = PODS
    FILE.write_text(json.dumps(found, indent=2) + "\n")
    if {"acknowledgements", "routing"} <= found.keys():
        draw(found, RESULTS)


if __name__ == "__main__":
    try:
        ensure()
        enter("benchmarks.cluster")
    except Unavailable as error:
        print(f"SKIPPED: {error}", flush=True)
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        every = ["acknowledgements", "routing", "many", "gateway"]
        parser.add_argument("--parts", default=every, type=lambda text: text.split(","))
        parser.add_argument("--repetitions", default=200, type=int, help="samples of each kind")
        arguments = parser.parse_args()
        uvloop.run(_main(arguments.parts, arguments.repetitions))
