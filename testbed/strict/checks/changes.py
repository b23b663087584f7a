"""Checks of changes under load: no request may be lost by a change of something else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from testbed.strict.checks.picking import LIST
from testbed.strict.checks.registry import check
from testbed.strict.client import Answer, ask, new_session
from testbed.strict.site import Failed, Site, programmed
from testbed.strict.workloads import ECHO_PORT, gateway, to_pool

CLIENTS = 8
LEAST = 10 * CLIENTS
"""Fewer requests under load tell nothing."""
PAUSE = 0.01
"""Seconds that a client waits between two requests."""
CHANGES = 12
"""How often routes change."""


@dataclass
class Load:
    """A running load."""

    sent: int = 0
    lost: list[str] = field(default_factory=list)
    """What came of requests that were not served."""
    recent: dict[str, int] = field(default_factory=dict)
    """Outcomes since it was emptied last."""


@asynccontextmanager
async def _load(
    site: Site, one: Callable[[], Awaitable[Answer]], least: int = LEAST
) -> AsyncIterator[Load]:
    """Requests until the end of the block. One that is not answered with 200 is lost.

    Raises:
        Failed: at the end of the block, if one was lost or too few were answered to tell.
    """
    load, over = Load(), asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            answer = await one()
            found = await site.outcome(answer)
            load.sent += 1
            load.recent[found] = load.recent.get(found, 0) + 1
            if answer.status != 200:
                load.lost.append(answer.said)
            await asyncio.sleep(PAUSE)

    async def few() -> str:
        enough = load.lost or load.sent >= least
        return "" if enough else f"only {load.sent} requests were answered"

    tasks = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    try:
        yield load
        # On a busy machine the block is over before enough are.
        await site.until(f"the load has {least} answers", few)
    finally:
        over.set()
        await asyncio.gather(*tasks)
    if load.lost:
        raise Failed(f"{len(load.lost)} of {load.sent} requests were lost, such as: {load.lost[0]}")


async def _only(site: Site, load: Load, outcome: str) -> None:
    """Wait until all recent requests have this outcome."""

    async def holds() -> str:
        load.recent.clear()
        await asyncio.sleep(0.3)
        return "" if set(load.recent) == {outcome} else str(load.recent)

    await site.until(f"the load gets {outcome}", holds)


@check(
    "routes-change",
    "While routes and weights change, no request of another route, or of the changed one, is lost.",
    *("alpha", "beta"),
)
async def routes_change(site: Site) -> None:
    """Routes come and go, a rule gets more matches, and its weights move from one pool to the other."""
    host, api = "steady.example", site.target.api
    route = site.route(host, to_pool("alpha", 1), to_pool("beta", 0))
    async with site.made(route):
        await site.serves(host, {"200 alpha"}, 16)
        async with _load(site, lambda: site.ask(host)) as load:
            for turn in range(CHANGES):
                async with site.made(site.route(f"passing-{turn}.example", "beta")):
                    weights = (1, turn % 3)
                    refs = [to_pool("alpha", weights[0]), to_pool("beta", weights[1])]
                    extra = [{"path": {"value": "/"}}, {"path": {"value": f"/turn-{turn}"}}]
                    rules = [{"matches": extra, "backendRefs": refs}]
                    await api.patch(route, {"spec": {"rules": rules}})
                    await asyncio.sleep(0.15)
            rules = [{"backendRefs": [to_pool("alpha", 0), to_pool("beta", 1)]}]
            await api.patch(route, {"spec": {"rules": rules}})
            await _only(site, load, "200 beta")


@check(
    "rollout",
    "While the model servers of a FailClose pool are rolled out, no request is lost.",
    "roll",
)
async def rollout(site: Site) -> None:
    """Pods serve on for some seconds after they began to terminate, as model servers should."""
    host = "roll.example"
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "roll", "namespace": site.namespace},
    }
    async with site.made(site.route(host, "roll")):
        await site.serves(host, {"200 roll"}, 16)
        before = {pod.name for pod in await site.pods("roll")}
        stamp = {"strict": str(sorted(before))[:60].strip("[]'")}
        async with _load(site, lambda: site.ask(host)):
            template = {"metadata": {"annotations": stamp}}
            await site.target.api.patch(deployment, {"spec": {"template": template}})

            async def replaced() -> str:
                now = {pod.name for pod in await site.pods("roll")}
                return "" if len(now) == len(before) and not now & before else str(now)

            await _patiently(site, replaced)
            # The old Pods end in this time.
            await asyncio.sleep(1.0)


async def _patiently(site: Site, holds: Callable[[], Awaitable[str]]) -> None:
    """Wait for the cluster rather than for the gateway."""
    try:
        async with asyncio.timeout(site.target.start):
            while await holds():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Failed(f"the cluster did not within {site.target.start:.0f} s") from None


@check(
    "late-pick",
    "A pick of a Pod that began to terminate within the last second is served: pickers may be late.",
    *("roll", "simulated"),
)
async def late_pick(site: Site) -> None:
    """The picker names the Pod whatever happens to it. The Pod serves on for some seconds."""
    host = "late.example"
    pool = site.pool("late", "roll", "picker-simulated")
    async with site.made(pool, site.route(host, "late")):
        pod = (await site.pods("roll"))[0]
        headers = {LIST: f"{pod.ip}:{ECHO_PORT}"}
        await site.serves(host, {"200 roll"}, 8, headers=headers)
        item = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "namespace": site.namespace},
        }
        # The time is short: on a busy machine few requests fit into it.
        async with _load(site, lambda: site.ask(host, headers=headers), least=2 * CLIENTS):
            await asyncio.sleep(0.2)
            await site.target.api.delete(item, grace=20)
            await asyncio.sleep(1.0)


@check(
    "gateway-deletion",
    "A Gateway that is deleted serves no more, and another one with the same route loses no request.",
    "alpha",
)
async def gateway_deletion(site: Site) -> None:
    """The route has both Gateways as its parents."""
    host, api = "both.example", site.target.api
    third = gateway("three", site.namespace, site.target.gateway_class)
    parents = [{"name": "one", "sectionName": "http"}, {"name": "three", "sectionName": "http"}]
    async with site.made(third, site.route(host, "alpha", parents=parents)):
        site.addresses["three"] = await programmed(site, "three")
        await site.serves(host, {"200 alpha"}, 8)
        await site.serves(host, {"200 alpha"}, 8, gateway="three")
        async with _load(site, lambda: site.ask(host)):
            await asyncio.sleep(0.3)
            await api.delete(third, grace=30)

            async def ended() -> str:
                # A connection that is open may be served to its end.
                async with new_session() as session:
                    answer = await ask(session, site.url("three"), host)
                return f"answer: {answer.said}" if answer.status == 200 else ""

            await site.until("the deleted Gateway serves no more", ended)
            await asyncio.sleep(0.3)
