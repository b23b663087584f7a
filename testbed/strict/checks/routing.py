"""Checks of routing: weights, isolation of Gateways and listeners, references that lead nowhere."""

from functools import partial

from testbed.cluster.api import Object
from testbed.strict.checks.registry import check
from testbed.strict.client import together
from testbed.strict.site import Failed, Site
from testbed.strict.statistics import TOLERANCE, bounds, draws_for, hopeless
from testbed.strict.workloads import POOL_GROUP, to_pool

_LOOK = 100
"""Requests between two looks at whether more are needed."""


async def _weighted(site: Site, alpha: int, beta: int) -> None:
    """`alpha` and `beta` share requests by these weights."""
    host, share = f"weights-{alpha}-{beta}.example", alpha / (alpha + beta)
    async with site.made(site.route(host, to_pool("alpha", alpha), to_pool("beta", beta))):
        one, expected = partial(site.ask, host), {"200 alpha", "200 beta"}

        async def holds() -> str:
            answer = await one()
            return "" if await site.outcome(answer) in expected else answer.said

        await site.until("one of the pools serves", holds)
        hits, sent, wanted = 0, 0, draws_for(share)
        while sent < wanted:
            for answer in await together(min(_LOOK, wanted - sent), 16, one):
                sent += 1
                if (found := await site.outcome(answer)) not in expected:
                    raise Failed(f"request {sent}: {answer.said}")
                hits += found == "200 alpha"
            if hopeless(hits, sent, share):
                break
        low, high = bounds(sent, share)
        if not low <= hits <= high:
            text = f"weight {100 * share:.0f} %, but {hits} of {sent} requests ({100 * hits / sent:.1f} %)"
            raise Failed(text)


@check(
    "weights-70-30",
    f"Weights 70 and 30 are kept within {100 * TOLERANCE:.0f} points.",
    *("alpha", "beta"),
)
async def weights_70_30(site: Site) -> None:
    """6300 requests: a right gateway fails with less than 2e-7."""
    await _weighted(site, 70, 30)


@check(
    "weights-60-40",
    f"Weights 60 and 40 are kept within {100 * TOLERANCE:.0f} points.",
    *("alpha", "beta"),
)
async def weights_60_40(site: Site) -> None:
    """7200 requests."""
    await _weighted(site, 60, 40)


@check(
    "weights-99-1",
    f"Weights 99 and 1 are kept within {100 * TOLERANCE:.0f} points, and the smaller pool serves.",
    *("alpha", "beta"),
)
async def weights_99_1(site: Site) -> None:
    """1550 requests, so that the smaller pool is left out with less than 2e-7."""
    await _weighted(site, 99, 1)


@check(
    "isolation",
    "A route is served by its Gateway and its listener alone.",
    *("alpha", "beta"),
)
async def isolation(site: Site) -> None:
    """The same host at two Gateways leads to two pools, and at another listener nowhere."""
    host, away, there = "isolated.side.example", "away.example", "there.side.example"
    two, side = (
        {"name": name, "sectionName": at} for name, at in (("two", "http"), ("one", "side"))
    )
    # The first of these two would win if both were served.
    other = site.route(host, "beta", name="isolated-1", parents=[two])
    own = site.route(host, "alpha", name="isolated-2")
    only = site.route(away, "beta", parents=[two])
    at_side = site.route(there, "alpha", parents=[side])
    async with site.made(other, own, only, at_side):
        await site.serves(host, {"200 alpha"}, 16)
        await site.serves(host, {"200 beta"}, 16, gateway="two")
        await site.serves(away, {"200 beta"}, 16, gateway="two")
        await site.serves(there, {"200 alpha"}, 16, listener=1)
        await site.serves(away, {"404"}, 16)
        await site.serves(host, {"404"}, 16, listener=1)
        await site.serves(there, {"404"}, 16)
        await site.serves(there, {"404"}, 16, gateway="two")


def bad_references(namespace: str) -> dict[str, tuple[Object, str]]:
    """BackendRefs that lead nowhere, by name, with the reason of ResolvedRefs."""
    pool = {"group": POOL_GROUP, "kind": "InferencePool"}
    return {
        "no-pool": ({**pool, "name": "there-is-none"}, "BackendNotFound"),
        "no-service": ({"name": "there-is-none", "port": 80}, "BackendNotFound"),
        "no-kind": ({"group": "example.com", "kind": "Nothing", "name": "alpha"}, "InvalidKind"),
        "no-grant": (
            {**pool, "name": "alpha", "namespace": f"{namespace}-other"},
            "RefNotPermitted",
        ),
    }


@check(
    "bad-references-500",
    "Requests for a reference that leads nowhere get 500, and only those: its weight counts.",
    "alpha",
)
async def bad_references_500(site: Site) -> None:
    """Each kind alone, and as half of a rule."""
    for name, (reference, _) in bad_references(site.namespace).items():
        alone, half = f"{name}.example", f"half-{name}.example"
        async with site.made(
            site.route(alone, reference),
            site.route(half, "alpha", {**reference, "weight": 1}),
        ):
            await site.serves(alone, {"500"}, 16)
            await site.serves(half, {"500", "200 alpha"}, 40)
