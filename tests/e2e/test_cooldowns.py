"""A pool in its cool-down: what a pick names reaches the real Envoy all the same, before the request
does."""

import asyncio

import httpx
import pytest

from epp_client.settings import TransportName
from epp_client.xds import cooldowns
from testbed.process import Process
from testbed.stack import inference_pool, pod, running_stack
from tests.e2e.tools import add_objects, echo, recording_picker, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOST = "127.0.0.91"


async def test_the_pick_of_an_endpoint_that_envoy_has_not_been_told_of_is_served(
    transport: TransportName, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooldowns, "COOLDOWN_FACTOR", 1e12)
    # without a pick: not before the test ends
    monkeypatch.setattr(cooldowns, "MAX_COOLDOWN", 3600.0)
    patient = {"tls": {"mode": "plaintext"}, "endpoint_wait": 10.0}
    async with running_stack(
        transport=transport, routes_to=["fresh"], pool_defaults=patient
    ) as stack:
        port = stack.endpoints[0].rpartition(":")[2]
        process, ready = await Process.python("testbed.model_server", "--listen", f"{HOST}:{port}")
        new, store = str(ready["address"]), stack.sidecar.store
        try:
            async with recording_picker("recorder", [*stack.endpoints, new]) as (objects, _):
                pool = inference_pool("fresh", int(port), "recorder", "FailClose")
                add_objects(stack, [*objects, pool], "fresh.yaml")
                await until(client, stack, "fresh", lambda answer: answer.status_code == 200)
                add_objects(stack, [pod("new", HOST)], "new.yaml")
                async with asyncio.timeout(60):
                    while new not in store.snapshots["default/fresh"].table.by_key:
                        await asyncio.sleep(0.01)
                assert not store.snapshots["default/fresh"].routable(new)
                answer = await echo(client, stack, "fresh", test_epp_endpoint_selection=new)
                assert (answer.status_code, answer.headers.get("x-model-server")) == (200, new)
                assert store.snapshots["default/fresh"].routable(new)
                # nobody has asked for it
                assert not store.snapshots["default/open"].routable(new)
        finally:
            await process.stop(1)
