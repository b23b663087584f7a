"""From the API server to the answer: each change shows in routing, and no request is lost meanwhile.

The picker is the real lwepp, which watches the same API server: it learns of a change before or after
this sidecar, by some milliseconds, and FailClose forgives nothing.
"""

from collections.abc import Awaitable, Callable

import pytest

from testbed.cluster import objects
from tests.cluster.conftest import Site
from tests.cluster.load import steady_load

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]


async def test_a_pod_that_is_not_ready_is_not_asked_and_comes_back(site: Site) -> None:
    await site.api.create(site.pool())
    await site.picker()
    gateway = await site.gateway()
    first, *rest = site.models.endpoints(site.models.ports[0])
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        await load.until_served_by(first, *rest)
        ip = first.rpartition(":")[0]
        await site.api.patch(site.pods[0], {"status": objects.status(ip, ready=False)}, "status")
        await load.until_served_by(*rest)
        await site.api.patch(site.pods[0], {"status": objects.status(ip)}, "status")
        await load.until_served_by(first, *rest)
    assert load.failures == []


async def test_a_pod_that_terminates_and_one_that_is_new(site: Site) -> None:
    await site.api.create(site.pool())
    await site.api.delete(site.pods[2])
    await site.picker()
    gateway = await site.gateway()
    first, second, third = site.models.endpoints(site.models.ports[0])
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        await load.until_served_by(first, second)
        await site.api.create(site.pods[2])
        await load.until_served_by(first, second, third)
        await site.api.delete(site.pods[0], grace=30)
        await load.until_served_by(second, third)
        await site.api.delete(site.pods[0])
        await load.until_served_by(second, third)
    assert load.failures == []


async def test_a_selector_edit(site: Site) -> None:
    await site.api.create(site.pool())
    for pod in site.pods[1:]:
        await site.api.patch(pod, {"metadata": {"labels": {"tier": "new"}}})
    await site.picker()
    gateway = await site.gateway()
    first, *rest = site.models.endpoints(site.models.ports[0])
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        await load.until_served_by(first, *rest)
        narrower = {"app": "model", "tier": "new"}
        await site.api.patch(site.pool(), {"spec": {"selector": {"matchLabels": narrower}}})
        await load.until_served_by(*rest)
        await site.api.patch(site.pool(), {"spec": {"selector": {"matchLabels": {"tier": None}}}})
        await load.until_served_by(first, *rest)
    assert load.failures == []


async def test_a_label_that_leaves_the_selector(site: Site) -> None:
    await site.api.create(site.pool())
    await site.picker()
    gateway = await site.gateway()
    first, *rest = site.models.endpoints(site.models.ports[0])
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        await load.until_served_by(first, *rest)
        await site.api.patch(site.pods[0], {"metadata": {"labels": {"app": "quarantine"}}})
        await load.until_served_by(*rest)
    assert load.failures == []


async def test_a_target_ports_edit(site: Site) -> None:
    old, new = site.models.ports
    await site.api.create(site.pool())
    await site.picker()
    gateway = await site.gateway()
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        await load.until_served_by(*site.models.endpoints(old))
        await site.api.patch(site.pool(), {"spec": {"targetPorts": [{"number": new}]}})
        await load.until_served_by(*site.models.endpoints(new))
        both = [{"number": old}, {"number": new}]
        await site.api.patch(site.pool(), {"spec": {"targetPorts": both}})
        everywhere = (*site.models.endpoints(old), *site.models.endpoints(new))
        await load.until_served_by(*everywhere)
    assert load.failures == []


async def test_an_app_protocol_flip(site: Site) -> None:
    await site.api.create(site.pool())
    await site.picker()
    gateway = await site.gateway()
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        for protocol, version in (("http", "1.1"), ("kubernetes.io/h2c", "2"), ("http", "1.1")):
            await site.api.patch(site.pool(), {"spec": {"appProtocol": protocol}})
            await load.until(lambda seen, v=version: {a.version for a in seen} == {v})
    assert load.failures == []


async def test_a_failure_mode_flip_decides_what_a_dead_picker_costs(site: Site) -> None:
    pool = site.pool(failure_mode="FailOpen")
    await site.api.create(pool)
    picker = await site.picker()
    gateway = await site.gateway()
    url = gateway.pool_url(f"{site.namespace}/pool")
    mode = {"spec": {"endpointPickerRef": {"failureMode": "FailClose"}}}
    async with steady_load(url) as load:
        await load.until(lambda seen: all("x-went-into-resp-headers" in a.headers for a in seen))
        await site.api.patch(pool, mode)
        await gateway.sidecar.until(f"/pools/{site.namespace}/pool", '"FailClose"')
        mode["spec"]["endpointPickerRef"]["failureMode"] = "FailOpen"
        await site.api.patch(pool, mode)
        await gateway.sidecar.until(f"/pools/{site.namespace}/pool", '"FailOpen"')
        # A request keeps the failure mode that it began with, and the worker hears a moment later.
        await load.until(lambda seen: not any(a.failure for a in seen))
        await picker.process.kill()
        await load.until(
            lambda seen: not any("x-went-into-resp-headers" in a.headers for a in seen)
        )
    assert load.failures == []
    mode["spec"]["endpointPickerRef"]["failureMode"] = "FailClose"
    async with steady_load(url) as refused:
        await site.api.patch(pool, mode)
        await refused.until(lambda seen: all("picker_unreachable" in a.failure for a in seen))


async def test_a_picker_rollout(site: Site) -> None:
    """As a Deployment does it: the new one is ready, then the old one terminates, then it is gone."""
    # lwepp makes an RSA key of 4096 bits between being ready and listening. On a busy machine that takes
    # longer than the 5 s that a new address has by default, and there is nobody else to ask meanwhile.
    patient = {"epp-client.dev/connect-timeout": "20s", "epp-client.dev/pick-timeout": "20s"}
    await site.api.create(site.pool(annotations=patient))
    old = await site.picker(name="old")
    gateway = await site.gateway()
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        await load.until_served_by(*site.models.endpoints(site.models.ports[0]))
        new = await site.picker(name="new")
        await gateway.sidecar.until(f"/pools/{site.namespace}/pool", new.address)
        leaving = site.slice_of(old, "old", ready=False)
        leaving["endpoints"][0]["conditions"] |= {"serving": True, "terminating": True}
        await site.api.apply([leaving])
        # SIGTERM comes at once, as a kubelet sends it: before anybody has read the EndpointSlice.
        assert await old.process.stop(10) == 0
        await site.api.delete(leaving)
        await load.until_served_by(*site.models.endpoints(site.models.ports[0]))
    assert load.failures == []


async def _not_ready(site: Site) -> None:
    await site.api.patch(
        site.pods[0], {"status": objects.status("127.0.0.31", ready=False)}, "status"
    )


async def _terminating(site: Site) -> None:
    await site.api.delete(site.pods[0], grace=30)


async def _relabelled(site: Site) -> None:
    await site.api.patch(site.pods[0], {"metadata": {"labels": {"app": "quarantine"}}})


async def _narrower(site: Site) -> None:
    for pod in site.pods[1:]:
        await site.api.patch(pod, {"metadata": {"labels": {"tier": "new"}}})
    await site.api.patch(site.pool(), {"spec": {"selector": {"matchLabels": {"tier": "new"}}}})


async def _other_port(site: Site) -> None:
    ports = [{"number": site.models.ports[1]}]
    await site.api.patch(site.pool(), {"spec": {"targetPorts": ports}})


@pytest.mark.parametrize(
    "change",
    [_not_ready, _terminating, _relabelled, _narrower, _other_port],
    ids=lambda c: c.__name__,
)
async def test_a_picker_that_has_not_heard_of_it_costs_nothing(
    site: Site, change: Callable[[Site], Awaitable[None]]
) -> None:
    """For as long as `drain-grace` says, under FailClose."""
    everywhere = site.models.endpoints(site.models.ports[0])
    await site.api.create(site.pool(annotations={"epp-client.dev/tls": "plaintext"}))
    await site.late_picker(*everywhere)
    gateway = await site.gateway()
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        await load.until_served_by(*everywhere)
        await change(site)
        await gateway.sidecar.until(f"/pools/{site.namespace}/pool", '"draining"')
        await load.until_served_by(*everywhere)
    assert load.failures == []
