"""Checks of the pick: the endpoint that the picker names serves, and no other one."""

import hashlib
from itertools import permutations

from testbed.strict.checks.registry import check
from testbed.strict.site import Failed, Site
from testbed.strict.workloads import MODEL_PORT

STEER = "test-epp-endpoint-selection"
"""lwepp picks among the addresses in this header."""
CLAIM = "x-gateway-destination-endpoint"
"""Only a picker may set it."""
LIST = "x-picker-list"
"""The pick of the simulated picker, as it is."""


async def _by(site: Site, host: str, pod: str, headers: dict[str, str], count: int = 8) -> None:
    """All requests with these headers are served by a Pod."""
    for _ in range(count):
        answer = await site.ask(host, headers=headers)
        if await site.served_by(answer) != pod:
            by = await site.served_by(answer) or "nobody"
            raise Failed(f"{headers}: expected {pod}, served by {by}: {answer.said}")


@check("pick-followed", "The endpoint that the picker names serves the request.", "alpha")
async def pick_followed(site: Site) -> None:
    """lwepp is steered to each Pod in turn."""
    host = "followed.example"
    async with site.made(site.route(host, "alpha")):
        await site.serves(host, {"200 alpha"}, 8)
        for pod in await site.pods("alpha"):
            await _by(site, host, pod.name, {STEER: pod.ip})


@check("client-cannot-choose", "A client's own destination header chooses no endpoint.", "alpha")
async def client_cannot_choose(site: Site) -> None:
    """The header of the protocol names another Pod than the picker."""
    host = "claimed.example"
    async with site.made(site.route(host, "alpha")):
        await site.serves(host, {"200 alpha"}, 8)
        for pod, other in permutations(await site.pods("alpha"), 2):
            claim = f"{other.ip}:3000"
            await _by(site, host, pod.name, {STEER: pod.ip, CLAIM: claim}, 3)


@check(
    "ordered-list",
    "Of an ordered list the first endpoint that takes the request serves it, with its whole body.",
    *("gamma", "dead", "simulated"),
)
async def ordered_list(site: Site) -> None:
    """Dead endpoints come first, in every order of the living ones."""
    host, body = "ordered.example", b"a body of some size " * 2_000
    digest = hashlib.sha256(body).hexdigest()
    pool = site.pool("listed", "ragged", "picker-simulated")
    async with site.made(pool, site.route(host, "listed")):
        living, dead = await site.pods("gamma"), await site.pods("dead")
        ends = [f"{pod.ip}:{MODEL_PORT}" for pod in dead]
        first = f"{living[0].ip}:{MODEL_PORT}"
        await site.serves(host, {"200 gamma"}, 4, path="/v1/models", headers={LIST: first})
        for order in permutations(living):
            keys = [f"{pod.ip}:{MODEL_PORT}" for pod in order]
            # Between them is an endpoint of no pool, which is passed over.
            for named in (keys, [*ends, *keys], [ends[0], "192.0.2.99:1", *keys]):
                for _ in range(4):
                    headers = {LIST: ",".join(named)}
                    answer = await site.ask(host, "/echo", headers=headers, body=body)
                    by = await site.served_by(answer)
                    if by != order[0].name or digest.encode() not in answer.body:
                        raise Failed(
                            f"pick {named}: expected {order[0].name}, served by {by or answer.said}"
                        )


@check(
    "out-of-pool-close",
    "A pick outside the pool is never routed: a FailClose pool answers 503.",
    *("alpha", "beta"),
)
async def out_of_pool_close(site: Site) -> None:
    """The pool's picker is that of another pool, so that all its picks are outside."""
    host = "astray-close.example"
    pool = site.pool("astray-close", "alpha", "picker-beta", "FailClose")
    async with site.made(pool, site.route(host, "astray-close")):
        await site.serves(host, {"503"}, 24)


@check(
    "out-of-pool-open",
    "A pick outside the pool is never routed: a FailOpen pool serves the request itself.",
    *("alpha", "beta"),
)
async def out_of_pool_open(site: Site) -> None:
    """As above."""
    host = "astray-open.example"
    pool = site.pool("astray-open", "alpha", "picker-beta", "FailOpen")
    async with site.made(pool, site.route(host, "astray-open")):
        await site.serves(host, {"200 alpha"}, 24)


@check(
    "subset-hint",
    "The picker gets the subset hint, and a local pick stays within it.",
    "alpha",
    subset=True,
)
async def subset_hint(site: Site) -> None:
    """lwepp picks within the hint. Without a picker the gateway does."""
    host, broken, name = "subset.example", "subset-open.example", site.target.subset_header
    pool = site.pool("subset-open", "alpha", "picker-nobody", "FailOpen")
    async with site.made(pool, site.route(host, "alpha"), site.route(broken, "subset-open")):
        for one in (host, broken):
            await site.serves(one, {"200 alpha"}, 8)
            for pod in await site.pods("alpha"):
                await _by(site, one, pod.name, {name: f"{pod.ip}:3000"})
        await site.serves(host, {"503"}, 8, headers={name: "192.0.2.99:3000"})
