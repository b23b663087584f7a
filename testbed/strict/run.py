"""Runs checks one after the other against a target, in a namespace that is deleted afterwards."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from testbed.cluster.api import ApiError
from testbed.strict.checks import CHECKS, Check
from testbed.strict.client import new_session
from testbed.strict.report import FAIL, PASS, SKIP, Result
from testbed.strict.site import Failed, Site, prepare
from testbed.strict.target import Target

Say = Callable[[str], None]


def chosen(names: Sequence[str]) -> list[Check]:
    """The checks of these names, by default all.

    Raises:
        KeyError: there is no such check.
    """
    return [CHECKS[name] for name in names] if names else list(CHECKS.values())


def skipped(check: Check, target: Target) -> str:
    """Why a check cannot be run against a target; empty if it can."""
    if check.simulated and not target.images.simulated:
        return "it needs --image"
    if check.subset and not target.subset_header:
        return "it needs --subset-header: the gateway makes no subset hints"
    return ""


@asynccontextmanager
async def new_site(target: Target) -> AsyncIterator[Site]:
    """A namespace for the suite, not prepared yet."""
    name = f"strict-{secrets.token_hex(3)}"
    async with new_session() as session:
        site = Site(target, name, session, await target.controller())
        try:
            yield site
        finally:
            with contextlib.suppress(ApiError):
                await target.api.call("DELETE", f"/api/v1/namespaces/{name}")


async def run_check(check: Check, site: Site) -> Result:
    """Run one check at a prepared site."""
    begun, outcome, text = time.monotonic(), PASS, ""
    try:
        await check.run(site)
    except (Failed, ApiError) as error:
        outcome, text = FAIL, str(error)
    return Result(check.name, check.sentence, outcome, time.monotonic() - begun, text)


async def run(target: Target, checks: Sequence[Check], say: Say) -> list[Result]:
    """Prepare a site, and run checks at it.

    Raises:
        Failed: the Pods or the Gateways did not get ready.
    """
    results: list[Result] = []
    wanted = [check for check in checks if not skipped(check, target)]
    async with new_site(target) as site:
        if wanted:
            say("set-up: Pods, pickers and Gateways")
            await prepare(site, {need for check in wanted for need in check.needs})
            say("set-up: done")
        for check in checks:
            if why := skipped(check, target):
                result = Result(check.name, check.sentence, SKIP, 0.0, why)
            else:
                result = await run_check(check, site)
            results.append(result)
            say(result.line)
    return results
