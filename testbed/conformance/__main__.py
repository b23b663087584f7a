"""`make conformance`: builds what is missing, starts the cluster, installs the gateway, runs the suites.

The suite `strict` is our own (`testbed.strict`), and runs if it is asked for. A line for each test as it
ends. Reports of whole runs go to `conformance/reports/`, logs to `build/conformance/`.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from epp_client.up.child import ending_with_parent
from testbed.build_cache import Unavailable
from testbed.cluster.binaries import MACHINE, binary, ensure
from testbed.cluster.kubelet.images import PROJECT
from testbed.cluster.machine import Machine, missing, running_machine
from testbed.cluster.network import enter
from testbed.conformance import controller
from testbed.conformance.gateway import HOW, installed
from testbed.conformance.progress import Progress
from testbed.conformance.suites import GATEWAY_CLASS, SUITES, Suite
from testbed.process import Process
from testbed.strict.checks import CHECKS

LOGS = PROJECT / "build" / "conformance"
REPORTS = PROJECT / "conformance" / "reports"
STRICT = "strict"
"""Our own suite."""
_SILENCE = 15.0
"""Seconds after which the tests that run are named."""


class Clock:
    """Prints lines with the time since the start."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"[{time.monotonic() - self._begun:6.1f} s] {text}", flush=True)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m testbed.conformance", description=__doc__)
    names = [*(suite.name for suite in SUITES), STRICT]
    parser.add_argument("--suite", choices=names, help="one suite, by default both official ones")
    parser.add_argument("--run", default="", metavar="TEST", help="one test, by its short name")
    default = "controller" if controller.there() else "pairs"
    parser.add_argument("--gateway", choices=list(HOW), default=default, help="how it is installed")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="the folder of reports")
    parser.add_argument("--keep", action="store_true", help="keep the cluster until Ctrl-C")
    parser.add_argument("more", nargs="*", help="more flags of the suite, after --")
    options = parser.parse_args(arguments)
    if options.run and options.suite is None:
        parser.error("--run needs --suite")
    if options.run and options.suite == STRICT and options.run not in CHECKS:
        parser.error(f"the checks are {', '.join(CHECKS)}")
    return options


async def _run_suite(
    machine: Machine, suite: Suite, options: argparse.Namespace, clock: Clock
) -> bool:
    """Run a suite; whether all of it passed."""
    # A report tells of a whole run only.
    path = options.reports / suite.report if not options.run else None
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{suite.name}.log"
    log.unlink(missing_ok=True)
    clock.say(f"{suite.name} {suite.version}: {options.run or 'all tests'}, log in {log}")
    flags = suite.flags(report=path, run=options.run, more=options.more)
    process = await Process.start(
        *("env", f"KUBECONFIG={machine.kubeconfig}", str(binary(suite.program)), *flags), log=log
    )
    progress, exited = Progress(), asyncio.create_task(process.exited())
    with log.open() as lines:
        rest, told = "", time.monotonic()
        while True:
            ended = exited.done()
            rest += lines.read()
            *whole, rest = rest.split("\n")
            for line in whole:
                for text in progress.read(line):
                    told = time.monotonic()
                    clock.say(f"  {text}")
            if time.monotonic() - told > _SILENCE and progress.running:
                told = time.monotonic()
                clock.say(f"  running: {', '.join(progress.running)}")
            if ended:
                break
            await asyncio.wait({exited}, timeout=0.5)
    await process.kill()
    good = exited.result() == 0 and progress.count("FAIL") == 0
    clock.say(
        f"{suite.name}: {'passed' if good else 'FAILED'}: {progress.count('PASS')} passed, "
        f"{progress.count('FAIL')} failed; {progress.count('SKIP')} are of features that are not declared"
    )
    if good and path is not None:
        clock.say(f"{suite.name}: report in {path}")
    return good


async def _run_strict(machine: Machine, options: argparse.Namespace) -> bool:
    """Run our own suite, as against any other gateway; whether all of it passed."""
    arguments = ["--class", GATEWAY_CLASS, "--kubeconfig", str(machine.kubeconfig)]
    # The kubelet runs this working copy for the image `python`.
    arguments += ["--image", "python"]
    if options.run:
        arguments += ["--check", options.run]
    else:
        options.reports.mkdir(parents=True, exist_ok=True)
        arguments += ["--report", str(options.reports / f"{STRICT}.yaml")]
    command = (sys.executable, "-m", "testbed.strict", *arguments, *options.more)
    process = await asyncio.create_subprocess_exec(*ending_with_parent(command, signal.SIGTERM))
    return await process.wait() == 0


async def _run(options: argparse.Namespace) -> int:
    clock, own = Clock(), asyncio.current_task()
    assert own is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own.cancel)
    LOGS.mkdir(parents=True, exist_ok=True)
    good = True
    async with running_machine() as machine:
        clock.say("the cluster is ready")
        try:
            async with installed(machine, options.gateway):
                clock.say(f"the gateway is installed ({options.gateway})")
                for suite in SUITES:
                    if options.suite in (None, suite.name):
                        good &= await _run_suite(machine, suite, options, clock)
                if options.suite == STRICT:
                    good &= await _run_strict(machine, options)
                if options.keep:
                    inside = f"nsenter --net --target={os.getpid()}"
                    clock.say(f"kept: {inside} env KUBECONFIG={machine.kubeconfig} bash")
                    await asyncio.Event().wait()
        finally:
            # The cluster's folder goes with it.
            shutil.rmtree(LOGS / "containers", ignore_errors=True)
            if (machine.folder / "logs").exists():
                shutil.copytree(machine.folder / "logs", LOGS / "containers")
            shutil.copy(machine.folder / "kubelet.log", LOGS)
    clock.say("passed" if good else f"FAILED: see {LOGS}")
    return 0 if good else 1


def main() -> int:
    """Run it; the exit code."""
    options = _options(sys.argv[1:])
    chosen = [suite.program for suite in SUITES if options.suite in (None, suite.name)]
    try:
        if why := missing():
            # A gap of this machine, which no command of ours fills.
            print(f"SKIPPED: {why}", flush=True)
            return 0
        ensure((*MACHINE, "kustomize", *chosen))
        enter("testbed.conformance")
        return asyncio.run(_run(options))
    except Unavailable as error:
        # Where Go and root are, this is no gap but a failure.
        skipped = shutil.which("go") is None or os.getuid() != 0
        print(f"{'SKIPPED' if skipped else 'FAILED'}: {error}", flush=True)
        return 0 if skipped else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
