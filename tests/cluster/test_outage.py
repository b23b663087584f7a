"""The API server dies under load and comes back: the last state serves, and says how old it is."""

import asyncio
import os
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from epp_client.errors import ApiFault
from epp_client.kubernetes.client.access import Access
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.follow.queries import Scope
from epp_client.kubernetes.follow.source import KubernetesSource
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from testbed.cluster import objects
from testbed.cluster.control_plane import START_TIMEOUT, ControlPlane
from tests.cluster.conftest import Site
from tests.cluster.load import steady_load

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

OUTAGE = float(os.environ.get("EPP_CLIENT_TEST_OUTAGE", "15"))
"""Seconds; by hand a minute."""

SHORT_OUTAGE = 5.0
FLEET, QUERIES = 20, 4
"""Sidecars, and what each follows of a namespace with one pool."""


async def test_an_api_server_that_is_away_costs_nothing(site: Site, plane: ControlPlane) -> None:
    # The picker looks for the API server anew in its own time, up to half a minute: until then it may name
    # a Pod that we know not to be ready any more.
    patient = {"epp-client.dev/drain-grace": "60s"}
    await site.api.create(site.pool(annotations=patient))
    await site.picker()
    gateway = await site.gateway()
    first, *rest = site.models.endpoints(site.models.ports[0])
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        await load.until_served_by(first, *rest)
        await plane.kill()
        await gateway.sidecar.until("/readyz", "stale")
        await asyncio.sleep(OUTAGE)
        page = (await gateway.sidecar.page("/metrics"))[1]
        assert _staleness(page) > OUTAGE / 2
        await load.until_served_by(first, *rest)
        await plane.start()
        await gateway.sidecar.until_fresh()
        await site.api.patch(
            site.pods[0],
            {"status": objects.status(first.rpartition(":")[0], ready=False)},
            "status",
        )
        # the picker, in its own time
        await load.until_served_by(*rest, patience=90)
    assert load.failures == []
    assert _staleness((await gateway.sidecar.page("/metrics"))[1]) < OUTAGE / 2


async def test_a_fleet_that_finds_it_again_asks_for_each_watch_and_lists_each_query_once_at_most(
    site: Site, plane: ControlPlane
) -> None:
    """Listed where the restarted server has forgotten our version: it may remember nothing from before."""
    await site.api.create(site.pool())
    api = KubernetesApi(Access(site.kubeconfig))
    await api.open()
    site.owner.push_async_callback(api.close)
    fleet = [
        KubernetesSource(
            api,
            Scope((site.namespace,)),
            PoolStore(),
            PoolSettings(),
            asyncio.get_running_loop().time,
        )
        for _ in range(FLEET)
    ]
    running = [asyncio.create_task(source.run()) for source in fleet]
    try:
        await _until(lambda: all(source.asked.watches == QUERIES for source in fleet))
        assert {source.asked.lists for source in fleet} == {QUERIES}
        await plane.kill()
        await _until(lambda: all(source.stale() for source in fleet))
        await asyncio.sleep(SHORT_OUTAGE)
        await plane.start()
        await _until(lambda: not any(source.stale() for source in fleet))
        lists = [source.asked.lists - QUERIES for source in fleet]
        for source, listed in zip(fleet, lists, strict=True):
            faults = source.asked.faults
            assert faults[ApiFault.GONE] <= QUERIES
            # A list that met a server which was not ready yet was asked for again; none without a reason.
            assert listed <= sum(faults.values())
        # Each attempt of a query is at least half its back-off later: 0.1 s, 0.2 s, 0.4 s ... 7.5 s.
        tries = [source.asked.watches - QUERIES for source in fleet]
        assert max(tries) < QUERIES * (12 + (SHORT_OUTAGE + START_TIMEOUT) / 7.5)
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(START_TIMEOUT):
        while not true():
            await asyncio.sleep(0.05)


def _staleness(metrics: str) -> float:
    """Seconds since the state was last known to be current, by the metric."""
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    return max(sample.value for sample in families["epp_client_api_stale_seconds"].samples)
