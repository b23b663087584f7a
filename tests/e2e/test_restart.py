"""The sidecar goes and comes back while Envoy stays."""

import asyncio
from typing import Any

import httpx
import pytest

from epp_client.sidecar import running
from testbed.stack import Stack, running_stack
from tests.e2e.tools import echo, edit, until

pytestmark = pytest.mark.asyncio(loop_scope="session")


def to_h2c(item: dict[str, Any]) -> None:
    if item["kind"] == "InferencePool" and item["metadata"]["name"] == "close":
        item["spec"]["appProtocol"] = "kubernetes.io/h2c"


def over_h2c(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("x-http-version") == "2")


async def failed_attempts(client: httpx.AsyncClient, stack: Stack) -> int:
    """How often Envoy has looked for its control plane in vain."""
    name = "cluster.epp-client-xds.upstream_cx_connect_fail$"
    text = (await client.get(f"{stack.envoy.admin}/stats", params={"filter": name})).text
    return int(text.rpartition(":")[2])


async def test_a_restarted_sidecar_costs_no_request_and_finds_its_envoy(
    own_stack: Stack, client: httpx.AsyncClient
) -> None:
    over = asyncio.Event()
    answers: list[int] = []

    async def load() -> None:
        while not over.is_set():
            answers.append((await echo(client, own_stack, "close")).status_code)

    loads = [asyncio.create_task(load()) for _ in range(4)]
    async with asyncio.timeout(60):
        while len(answers) < 8:
            await asyncio.sleep(0.01)
    await own_stack.sidecar.stop(10)
    async with running(own_stack.sidecar.settings) as again:
        before = len(answers)
        async with asyncio.timeout(60):
            while len(answers) < before + 50:
                await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*loads)
        assert set(answers) == {200}

        edit(own_stack, to_h2c)
        changed = await until(client, own_stack, "close", over_h2c)
        assert {answer.status_code for answer in changed} == {200}
        assert again.metrics.envoys._value.get() == 1


async def test_changes_reach_envoy_soon_after_a_long_absence_of_the_control_process(
    client: httpx.AsyncClient,
) -> None:
    """Left to itself Envoy would look every 15 s on average by then, for these attempts 80 s in all."""
    async with running_stack() as stack:
        await stack.sidecar.stop(0)
        async with asyncio.timeout(60):
            while await failed_attempts(client, stack) < 10:
                await asyncio.sleep(0.05)
        async with running(stack.sidecar.settings):
            edit(stack, to_h2c)
            await until(client, stack, "close", over_h2c)
