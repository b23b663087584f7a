"""`make test-cluster`: builds what is missing, then runs this tier.

That is tests/kubernetes against a real API server in the place of its double, and this folder.

Arguments are pytest's; with any, only this folder runs.
"""

import asyncio
import os
import shutil
import sys

from testbed.build_cache import Unavailable
from testbed.cluster.binaries import MACHINE, TIER, ensure
from testbed.cluster.control_plane import running_control_plane
from testbed.cluster.network import enter

KUBECONFIG = "EPP_CLIENT_TEST_KUBECONFIG"
"""Makes tests/kubernetes take a real API server in the place of its double."""
COLLECTED = {"EPP_CLIENT_TEST_CLUSTER": "1"}
"""Without it this folder is no part of `tests`."""


async def _kubernetes() -> int:
    async with running_control_plane() as plane:
        kubeconfig = plane.admin.write(plane.folder / "admin.kubeconfig")
        return await _pytest("tests/kubernetes", **{KUBECONFIG: str(kubeconfig)})


async def _pytest(*arguments: str, **environment: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", *arguments, env={**os.environ, **environment}
    )
    return await process.wait()


async def _run(arguments: list[str]) -> int:
    if arguments:
        return await _pytest("tests/cluster", *arguments, **COLLECTED)
    return await _kubernetes() or await _pytest("tests/cluster", **COLLECTED)


if __name__ == "__main__":
    try:
        ensure((*TIER, *MACHINE))
    except Unavailable as error:
        # Where Go is, this is no gap but a failure.
        skipped = shutil.which("go") is None
        print(f"{'SKIPPED' if skipped else 'FAILED'}: {error}", flush=True)
        sys.exit(0 if skipped else 1)
    try:
        enter("tests.cluster")
    # most containers may make none
    except Unavailable as error:
        print(f"SKIPPED: {error}", flush=True)
        sys.exit(0)
    sys.exit(asyncio.run(_run(sys.argv[1:])))
