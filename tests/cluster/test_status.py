"""`status.parents` on the real API server: its CRD validates what is written, others write beside us."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from testbed.cluster import objects
from testbed.cluster.api import Api, Object
from testbed.cluster.gateway import READY_TIMEOUT, Sidecar, running_sidecar
from tests.cluster.conftest import Site

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

GATEWAY = "edge"
OTHER = {
    "parentRef": {"name": "another"},
    "controllerName": "example.com/another",
    "conditions": [],
}


async def test_conditions_follow_the_route_the_reference_and_the_gateway(site: Site) -> None:
    pool = site.pool()
    await site.api.create(pool)
    await site.api.patch(pool, {"status": {"parents": [OTHER]}}, "status")
    await site.api.create(objects.gateway(GATEWAY, namespace=site.namespace))
    await _sidecar(site, site.owner)
    route = objects.http_route("r", namespace=site.namespace, gateway=GATEWAY, pool="pool")
    await site.api.create(route)
    ours = await _until(site.api, pool, _says(Accepted=("Unknown", "Pending")))
    assert ours["parentRef"]["name"] == GATEWAY
    await _route_status(site, route, "False", "NotAllowedByListeners")
    await _until(site.api, pool, _says(Accepted=("False", "HTTPRouteNotAccepted")))
    await _route_status(site, route, "True", "Accepted")
    ours = await _until(
        site.api,
        pool,
        _says(
            Accepted=("True", "Accepted"),
            ResolvedRefs=("True", "ResolvedRefs"),
            Exported=("False", "NotRequested"),
        ),
    )
    since = {c["type"]: c["lastTransitionTime"] for c in ours["conditions"]}

    # Another generation: observed, and no condition has changed.
    # lastTransitionTime has whole seconds
    await asyncio.sleep(1.1)
    changed = await site.api.patch(pool, {"spec": {"appProtocol": "kubernetes.io/h2c"}})
    generation = changed["metadata"]["generation"]
    ours = await _until(site.api, pool, _observed(generation))
    assert {c["type"]: c["lastTransitionTime"] for c in ours["conditions"]} == since

    service = objects.service("picker", namespace=site.namespace)
    await site.api.delete(service)
    ours = await _until(site.api, pool, _says(ResolvedRefs=("False", "InvalidExtensionRef")))
    times = {c["type"]: c["lastTransitionTime"] for c in ours["conditions"]}
    assert times["ResolvedRefs"] > since["ResolvedRefs"]
    assert times["Accepted"] == since["Accepted"]

    export = {"inference.networking.x-k8s.io/export": "ClusterSet"}
    await site.api.patch(pool, {"metadata": {"annotations": export}})
    await _until(site.api, pool, _says(Exported=("False", "NotSupported")))

    await site.api.delete(route)
    await _until(site.api, pool, lambda entry: entry is None)
    assert (await site.api.get(pool))["status"]["parents"] == [_defaulted(OTHER)]


LEADS = "epp_client_status_leader 1.0"
NEVER_WROTE = 'epp_client_status_writes_total{result="written"} 0.0'


async def test_one_of_two_replicas_writes_and_the_other_takes_over(site: Site) -> None:
    pool = site.pool()
    async with AsyncExitStack() as owner:
        replicas = [await _sidecar(site, owner, f"replica-{n}") for n in range(2)]
        await site.api.create(pool)
        await site.api.create(
            objects.http_route("r", namespace=site.namespace, gateway=GATEWAY, pool="pool")
        )
        await _until(site.api, pool, _says(Accepted=("Unknown", "Pending")))
        lease = await _lease(site)
        first = lease["spec"]["holderIdentity"]
        writer, other = await _writer_first(replicas)
        writer.process.signal(signal.SIGKILL)
        service = objects.service("picker", namespace=site.namespace)
        await site.api.delete(service)
        await _until(site.api, pool, _says(ResolvedRefs=("False", "InvalidExtensionRef")))
        assert (await _lease(site))["spec"]["holderIdentity"] != first
        await _until_written_by(other)
        assert other.process.running


async def _writer_first(replicas: list[Sidecar]) -> tuple[Sidecar, Sidecar]:
    """The replica that has written, by its own account (later than the API server's); the other has not."""
    leads = [LEADS in (await replica.page("/metrics"))[1] for replica in replicas]
    assert sorted(leads) == [False, True]
    first, second = replicas if leads[0] else reversed(replicas)
    await _until_written_by(first)
    assert NEVER_WROTE in (await second.page("/metrics"))[1]
    return first, second


async def _until_written_by(replica: Sidecar) -> None:
    async with asyncio.timeout(READY_TIMEOUT):
        while NEVER_WROTE in (await replica.page("/metrics"))[1]:
            await asyncio.sleep(0.05)


async def _sidecar(site: Site, owner: AsyncExitStack, name: str = "only") -> Sidecar:
    folder = site.folder / name
    folder.mkdir()
    gateway = f"{site.namespace}/{GATEWAY}"
    arguments = ("--namespace", site.namespace, "--gateway", gateway)
    running = running_sidecar(
        folder, site.kubeconfig, *arguments, "--lease-namespace", site.namespace
    )
    return await owner.enter_async_context(running)


async def _lease(site: Site) -> Object:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{site.namespace}/leases"
    (lease,) = (await site.api.call("GET", path))["items"]
    found: Object = lease
    return found


async def _route_status(site: Site, route: Object, status: str, reason: str) -> None:
    """What the controller of the Gateway says of the route."""
    generation = (await site.api.get(route))["metadata"]["generation"]
    condition = {
        "type": "Accepted",
        "status": status,
        "reason": reason,
        "message": "",
        "observedGeneration": generation,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    parent = {
        "parentRef": {"name": GATEWAY},
        "controllerName": "example.com/gateway",
        "conditions": [condition],
    }
    await site.api.patch(route, {"status": {"parents": [parent]}}, "status")


def _defaulted(parent: Object) -> Object:
    gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
    return {**parent, "parentRef": {**gateway, **parent["parentRef"]}}


Seen = Callable[[Any], bool]


def _says(**wanted: tuple[str, str]) -> Seen:
    def seen(entry: Object | None) -> bool:
        said = {c["type"]: (c["status"], c["reason"]) for c in (entry or {}).get("conditions", [])}
        return wanted.items() <= said.items()

    return seen


def _observed(generation: int) -> Seen:
    return lambda entry: {c["observedGeneration"] for c in entry["conditions"]} == {generation}


async def _until(api: Api, pool: Object, seen: Seen) -> Any:
    """Until our entry of the pool's status is as it should be; the entry, None for none.

    Another controller's entry must be there all the time, if it was once.
    """
    entry: Object | None = None
    others: list[Object] = []
    try:
        async with asyncio.timeout(READY_TIMEOUT):
            while True:
                parents = (await api.get(pool)).get("status", {}).get("parents", [])
                mine = [p for p in parents if p.get("controllerName") != OTHER["controllerName"]]
                kept = [p for p in parents if p not in mine]
                assert len(mine) <= 1
                assert len(kept) >= len(others)
                entry, others = (mine[0] if mine else None), kept
                if seen(entry):
                    return entry
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise AssertionError(f"not seen: {entry}") from error
