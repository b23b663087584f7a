"""Runs the load tools vegeta and locust against the rig.

The figures of the benchmark do not come from them, as both cost more than the sidecar. They show that it
works with an open loop and OpenAI-style clients. Every request must succeed.
"""

import asyncio
import json
import os
import shutil
import sys
from typing import Any

from benchmarks.measure import Say
from benchmarks.processes import SOURCES
from benchmarks.rig import Rig

FOLDER = SOURCES / "benchmarks"
RATE, SECONDS = 200, 5
SKIPPED = 77


class ToolFailed(Exception):
    """A tool failed, or one of its requests."""


async def vegeta(rig: Rig, say: Say, values: dict[str, Any]) -> None:
    """Run `vegeta/run.sh` and add success ratio, rate and latencies in ms.

    Raises:
        ToolFailed: see `ToolFailed`.
    """
    say(f"vegeta: {RATE} requests a second for {SECONDS} s")
    code, output, said = await _run(
        str(FOLDER / "vegeta/run.sh"), _url(rig), str(RATE), f"{SECONDS}s", JSON="1"
    )
    if code == SKIPPED:
        values["skipped"]["vegeta"] = said.strip().rpartition("SKIPPED: ")[2]
        return
    if code:
        raise ToolFailed(f"vegeta: {said}\n{output}")
    report = json.loads(output)
    values["vegeta"] = {
        "requests": report["requests"],
        "success": report["success"],
        "rate": report["throughput"],
        **{f"p{p}_ms": report["latencies"][f"{p}th"] / 1e6 for p in (50, 99)},
        "statuses": report["status_codes"],
    }


async def locust(rig: Rig, say: Say, values: dict[str, Any]) -> None:
    """Run the locustfile headless and add requests, failures and times in ms by name of entry.

    Raises:
        ToolFailed: see `ToolFailed`.
    """
    say(f"locust: 20 users for {SECONDS} s")
    if (binary := shutil.which("locust", path=os.path.dirname(sys.executable))) is None:
        values["skipped"]["locust"] = "pip install 'epp-client[bench]'"
        return
    code, output, said = await _run(
        binary, "-f", str(FOLDER / "locustfile.py"), "--host", _url(rig), "--headless", "--json",
        "--users", "20", "--spawn-rate", "20", "--run-time", f"{SECONDS}s", "--stop-timeout", "10",
        "--only-summary",
    )  # fmt: skip
    if code:
        raise ToolFailed(f"locust: {said}\n{output}")
    values["locust"] = {
        entry["name"]: {
            "requests": entry["num_requests"],
            "failures": entry["num_failures"],
            "rate": entry["num_requests"] / (entry["last_request_timestamp"] - entry["start_time"]),
            "p50_ms": _quantile(entry, 0.5),
            "p99_ms": _quantile(entry, 0.99),
        }
        for entry in json.loads(output)
    }


def _quantile(entry: dict[str, Any], share: float) -> float:
    """A quantile of locust's counts by rounded ms."""
    times = sorted((float(ms), count) for ms, count in entry["response_times"].items())
    left = share * sum(count for _, count in times)
    for ms, count in times:
        left -= count
        if left <= 0:
            return ms
    return 0.0


def _url(rig: Rig) -> str:
    return f"http://{rig.ways['native']}/default/relay"


async def _run(*command: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        # vegeta may have to be built.
        async with asyncio.timeout(180):
            output, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, output.decode(), said.decode()
