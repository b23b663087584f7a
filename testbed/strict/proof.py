"""`python -m testbed.strict.proof`: proves the suite. It runs every check against this project's data plane
on a cluster of one machine, and then, for each mutant, the checks that have to fail.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from testbed.build_cache import Unavailable
from testbed.cluster.binaries import MACHINE, ensure
from testbed.cluster.kubelet.sandbox import NODE
from testbed.cluster.machine import Machine, missing, running_machine
from testbed.cluster.network import enter
from testbed.strict.checks import CHECKS, Check
from testbed.strict.data_planes import DataPlanes, serving
from testbed.strict.mutants import MUTANTS, NONE, SUBSET_HEADER, Mutant
from testbed.strict.report import FAIL, Result
from testbed.strict.run import new_site, run_check
from testbed.strict.site import Site, prepare
from testbed.strict.target import Target
from testbed.strict.workloads import Images

CLASS = "strict"
GATEWAY = "one"
"""The Gateway that mutants serve."""
PATIENCE = 30.0
"""Seconds for a change."""
IMAGES = Images(simulated="python")
"""The kubelet of the cluster runs this working copy for `python`."""


@dataclass
class Proof:
    """A prepared site, and the data planes that serve it."""

    site: Site
    planes: DataPlanes

    async def right(self, check: Check) -> Result:
        """Run a check against what is not mutated."""
        await self._serve(NONE)
        self.site.hopeless = ""
        return await run_check(check, self.site)

    async def wrong(self, mutant: Mutant, check: Check) -> Result:
        """Run a check against a mutant. `caught` judges the result."""
        await self._serve(mutant.name)
        self.site.hopeless = mutant.fails[check.name]
        return await run_check(check, self.site)

    def log(self) -> str:
        """The end of the log of the sidecar that serves."""
        return self.planes.tail(self.site.namespace, GATEWAY)

    async def _serve(self, mutant: str) -> None:
        if self.planes.mutants.get(GATEWAY, NONE) != mutant:
            # `three` is made by a check, and is the mutant as well.
            self.planes.mutants["three"] = mutant
            await self.planes.restart(self.site.namespace, GATEWAY, mutant)


def caught(mutant: Mutant, result: Result) -> bool:
    """Whether a check failed because of the fault."""
    return result.outcome == FAIL and mutant.fails[result.name] in result.text


@asynccontextmanager
async def proving(machine: Machine, checks: Sequence[Check]) -> AsyncIterator[Proof]:
    """Prepare a site for checks, with a GatewayClass of its own.

    Raises:
        Failed: something did not get ready.
    """
    target = Target(machine.api, CLASS, IMAGES, PATIENCE, subset_header=SUBSET_HEADER)
    async with AsyncExitStack() as owner:
        planes = await owner.enter_async_context(
            serving(machine.api, machine.kubeconfig, CLASS, NODE)
        )
        site = await owner.enter_async_context(new_site(target))
        await prepare(site, {need for check in checks for need in check.needs})
        yield Proof(site, planes)


async def _run(
    mutants: Sequence[str], checks: Sequence[str], *, right: bool = True, wrong: bool = True
) -> int:
    begun, bad = time.monotonic(), 0

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {text}", flush=True)

    wanted = [CHECKS[name] for name in checks or CHECKS]
    async with running_machine() as machine, proving(machine, wanted) as proof:
        say("the site is prepared")
        for check in wanted if right else ():
            result = await proof.right(check)
            bad += result.outcome == FAIL
            say(result.line)
        for mutant in [MUTANTS[name] for name in mutants or MUTANTS] if wrong else ():
            for check in [check for check in wanted if check.name in mutant.fails]:
                result = await proof.wrong(mutant, check)
                bad += not caught(mutant, result)
                verdict = "caught" if caught(mutant, result) else "NOT CAUGHT"
                say(f"{mutant.name}: {verdict} by {result.line}")
                if not caught(mutant, result):
                    say(proof.log())
    say("passed" if not bad else f"FAILED: {bad}")
    return 1 if bad else 0


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m testbed.strict.proof", description=__doc__)
    parser.add_argument("--mutant", action="append", default=[], choices=list(MUTANTS))
    parser.add_argument("--check", action="append", default=[], choices=list(CHECKS))
    parser.add_argument("--only", choices=("right", "mutants"), help="one half of it")
    given = parser.parse_args()
    try:
        if why := missing():
            print(f"SKIPPED: {why}", flush=True)
            return 0
        ensure(MACHINE)
        enter("testbed.strict.proof")
    except Unavailable as error:
        print(f"SKIPPED: {error}", flush=True)
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        halves = {"right": given.only != "mutants", "wrong": given.only != "right"}
        return asyncio.run(_run(given.mutant, given.check, **halves))
    return 130


if __name__ == "__main__":
    sys.exit(main())
