"""GAIE's own pickers, lwepp v1.6.0 and epp v1.5.0, on the real API server, through Envoy and the sidecar.

They listen with their self-signed certificates, as by default.
"""

import aiohttp
import pytest

from testbed.cluster.gateway import Gateway
from tests.cluster.conftest import Site
from tests.cluster.load import steady_load

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

STEER = "test-epp-endpoint-selection"
SERVED = "x-conformance-test-served-endpoint"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
programs = pytest.mark.parametrize("program", ["lwepp", "epp"])


async def _ask(gateway: Gateway, site: Site, **more: str) -> aiohttp.ClientResponse:
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    url = gateway.pool_url(f"{site.namespace}/pool") + "/v1/chat/completions"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=CHAT, headers=headers) as answer,
    ):
        await answer.read()
        return answer


@programs
async def test_it_steers_and_hears_who_served(site: Site, program: str) -> None:
    port = site.models.ports[0]
    await site.api.create(site.pool())
    await site.picker(program)
    gateway = await site.gateway()
    for endpoint in (*site.models.endpoints(port), *reversed(site.models.endpoints(port))):
        for selection in (endpoint, endpoint.rpartition(":")[0]):
            answer = await _ask(gateway, site, **{STEER: selection})
            assert answer.status == 200, await answer.text()
            assert answer.headers["x-model-server"] == endpoint
            assert answer.headers[SERVED] == endpoint
    pool = await gateway.sidecar.pool(f"{site.namespace}/pool")
    assert pool is not None
    assert pool["settings"]["tls"]["mode"] == "unverified"


@pytest.mark.parametrize(("program", "status"), [("lwepp", 503), ("epp", 429)])
async def test_a_selection_that_nobody_is_refuses_the_request(
    site: Site, program: str, status: int
) -> None:
    """lwepp ends its stream with an error; epp refuses on its own, and that is an answer."""
    await site.api.create(site.pool())
    await site.picker(program)
    gateway = await site.gateway()
    answer = await _ask(gateway, site, **{STEER: "10.255.0.1"})
    assert answer.status == status


@programs
async def test_plaintext_is_an_annotation(site: Site, program: str) -> None:
    plaintext = {"epp-client.dev/tls": "plaintext"}
    await site.api.create(site.pool(annotations=plaintext))
    await site.picker(program, arguments=("--secure-serving=false",))
    gateway = await site.gateway()
    (endpoint, *_) = site.models.endpoints(site.models.ports[0])
    answer = await _ask(gateway, site, **{STEER: endpoint})
    assert (answer.status, answer.headers[SERVED]) == (200, endpoint)


@programs
async def test_killed_under_load_it_costs_nothing_with_fail_open(site: Site, program: str) -> None:
    endpoints = site.models.endpoints(site.models.ports[0])
    await site.api.create(site.pool(failure_mode="FailOpen"))
    picker = await site.picker(program)
    gateway = await site.gateway()
    steer = {STEER: endpoints[0]}
    url = gateway.pool_url(f"{site.namespace}/pool")
    async with steady_load(url, headers=steer) as load:
        await load.until_served_by(endpoints[0])
        await picker.process.kill()
        await load.until_served_by(*endpoints)
        await site.picker(program, name="again")
        await load.until_served_by(endpoints[0])
    assert load.failures == []
