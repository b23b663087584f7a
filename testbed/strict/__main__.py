"""`python -m testbed.strict --class NAME --kubeconfig FILE`: runs the suite against a gateway of a cluster.

It has to reach the API server and the Gateways' addresses. It makes a namespace, and deletes it at its end.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from testbed.cluster.api import Api
from testbed.strict.checks import CHECKS
from testbed.strict.report import passed, report, summary
from testbed.strict.run import chosen, run
from testbed.strict.site import Failed
from testbed.strict.target import BadKubeconfig, Target, read_access
from testbed.strict.workloads import Images


def options(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    known = Images()
    parser = argparse.ArgumentParser(prog="python -m testbed.strict", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the checks, and end")
    parser.add_argument("--class", dest="of_class", metavar="NAME", help="the GatewayClass")
    parser.add_argument(
        "--kubeconfig", type=Path, help="access to the cluster, as an administrator"
    )
    parser.add_argument(
        "--check", action="append", default=[], choices=list(CHECKS), help="one check; repeatable"
    )
    parser.add_argument("--report", type=Path, help="write the report to this file (YAML)")
    parser.add_argument(
        "--image", default="", help="an image of testbed/strict/Dockerfile, for checks that need it"
    )
    parser.add_argument("--echo-image", default=known.echo, help="by default %(default)s")
    parser.add_argument("--lwepp-image", default=known.lwepp, help="by default %(default)s")
    parser.add_argument("--pause-image", default=known.pause, help="by default %(default)s")
    parser.add_argument(
        "--subset-header", default="", help="the header from which the gateway makes subset hints"
    )
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds for a change; by default %(default)s"
    )
    found = parser.parse_args(arguments)
    if not found.list and not (found.of_class and found.kubeconfig):
        parser.error("--class and --kubeconfig are needed")
    return found


def target(given: argparse.Namespace, api: Api) -> Target:
    """What the options say about the gateway."""
    images = Images(given.echo_image, given.lwepp_image, given.pause_image, given.image)
    return Target(
        api,
        given.of_class,
        images,
        patience=given.patience,
        subset_header=given.subset_header,
    )


async def _run(given: argparse.Namespace) -> int:
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="strict-") as folder:
        async with Api(read_access(given.kubeconfig, Path(folder))) as api:
            under_test = target(given, api)
            results = await run(under_test, chosen(given.check), say)
            say(f"strict: {'passed' if passed(results) else 'FAILED'}: {summary(results)}")
            if given.report is not None:
                controller = await under_test.controller()
                given.report.write_text(report(given.of_class, controller, results))
                say(f"strict: report in {given.report}")
    return 0 if passed(results) else 1


def main() -> int:
    """Run it; the exit code: 0 if no check failed, 1 if one did, 2 if the suite cannot be run."""
    given = options(sys.argv[1:])
    if given.list:
        for check in CHECKS.values():
            print(f"{check.name:<22} {check.sentence}")
        return 0
    try:
        return asyncio.run(_run(given))
    except (BadKubeconfig, Failed) as error:
        print(f"strict: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
