"""Checks of failure modes, with the right picker broken: that of the pool whose policy is looked at."""

import hashlib

from testbed.strict.checks.picking import LIST
from testbed.strict.checks.registry import check
from testbed.strict.site import Failed, Site
from testbed.strict.workloads import MODEL_PORT

UNREACHABLE = ("picker-nobody", "picker-dead")
"""Services of pickers: one without endpoints, one whose endpoints refuse connections."""
BROKEN = ("close-before-pick", "no-endpoints-status", "die-mid-body", "garbage-bytes", "pick-none")
"""How a picker breaks that has taken the request."""


@check(
    "fail-open",
    "Of two pools in a rule the FailOpen one serves without its picker; the other asks its own.",
    *("alpha", "beta", "dead"),
)
async def fail_open(site: Site) -> None:
    """Only the picker of the FailOpen pool is broken."""
    host = "fail-open.example"
    for picker in UNREACHABLE:
        async with site.made(
            site.pool("open-broken", "alpha", picker, "FailOpen"),
            site.pool("close-works", "beta", "", "FailClose"),
            site.route(host, "open-broken", "close-works"),
        ):
            await site.serves(host, {"200 alpha", "200 beta"})


@check(
    "fail-close",
    "Of two pools in a rule the FailClose one answers 503 without its picker; the other serves.",
    *("alpha", "beta", "dead"),
)
async def fail_close(site: Site) -> None:
    """Only the picker of the FailClose pool is broken."""
    host = "fail-close.example"
    for picker in UNREACHABLE:
        async with site.made(
            site.pool("close-broken", "alpha", picker, "FailClose"),
            site.pool("open-works", "beta", "", "FailOpen"),
            site.route(host, "close-broken", "open-works"),
        ):
            await site.serves(host, {"503", "200 beta"})


async def _broken(site: Site, mode: str, expected: str) -> None:
    """A picker that breaks amid the conversation, in each way."""
    host, body = f"broken-{mode.lower()}.example", b"0123456789abcdef" * 16_384
    digest = hashlib.sha256(body).hexdigest()
    pool = site.pool(f"broken-{mode.lower()}", "gamma", "picker-simulated", mode)
    async with site.made(pool, site.route(host, pool["metadata"]["name"])):
        first = f"{(await site.pods('gamma'))[0].ip}:{MODEL_PORT}"
        await site.serves(host, {"200 gamma"}, 4, path="/v1/models", headers={LIST: first})
        for dialect in BROKEN:
            # The dialect pick-list is last, so that a pick is there to be spoiled.
            headers = {LIST: first, "x-picker-dialect": f"pick-list,{dialect}"}
            for _ in range(3):
                answer = await site.ask(host, "/echo", headers=headers, body=body)
                found = await site.outcome(answer)
                if found != expected:
                    raise Failed(f"picker {dialect}: expected {expected}, got {answer.said}")
                if answer.status == 200 and digest.encode() not in answer.body:
                    raise Failed(f"picker {dialect}: the model server got another body")


@check(
    "fail-open-body",
    "If a picker breaks while it has the body, a FailOpen pool serves the request with all of it.",
    *("gamma", "simulated"),
)
async def fail_open_body(site: Site) -> None:
    """256 KiB, which is more than a proxy's default buffer can hold back."""
    await _broken(site, "FailOpen", "200 gamma")


@check(
    "fail-close-broken",
    "If a picker breaks while it has the body, a FailClose pool answers 503.",
    *("gamma", "simulated"),
)
async def fail_close_broken(site: Site) -> None:
    """As above."""
    await _broken(site, "FailClose", "503")
