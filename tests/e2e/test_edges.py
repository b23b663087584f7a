"""What Envoy's own configuration meets: relay sockets that are dead, pools that come and go."""

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from epp_client.envoy.own_clusters import SIDECAR_CLUSTER
from epp_client.envoy.pool_clusters import cluster_name
from epp_client.pool.inference_pool import PoolName
from epp_client.settings import TransportName
from testbed.stack import Stack, inference_pool, running_stack
from tests.e2e.tools import add_objects, echo, ext_proc_service, settled, until

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(
    transport: TransportName, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Envoy knows three relay sockets: ours, one that is no file, and a file that nobody serves."""
    folder = tmp_path_factory.mktemp("dead")
    left_over = folder / "left.sock"
    with socket.socket(socket.AF_UNIX) as once:
        once.bind(str(left_over))
    dead = (folder / "none.sock", left_over)

    def add_sockets(bootstrap: dict[str, Any]) -> None:
        [cluster] = [
            item
            for item in bootstrap["static_resources"]["clusters"]
            if item["name"] == SIDECAR_CLUSTER
        ]
        [locality] = cluster["load_assignment"]["endpoints"]
        locality["lb_endpoints"].extend(_pipe(path) for path in dead)

    async with running_stack(
        transport=transport, routes_to=["late"], edit_bootstrap=add_sockets
    ) as running:
        yield running


def _pipe(path: Path) -> dict[str, Any]:
    return {"endpoint": {"address": {"pipe": {"path": str(path)}}}}


@pytest.mark.parametrize("size", [0, 1_000, 50_000])
async def test_dead_relay_sockets_cost_a_retry_and_no_request(
    stack: Stack, client: httpx.AsyncClient, size: int
) -> None:
    body = os.urandom(size)
    answers = await asyncio.gather(*(echo(client, stack, "close", body) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["sha256"] for answer in answers} == {hashlib.sha256(body).hexdigest()}
    retries = await _statistic(client, stack, f"cluster.{SIDECAR_CLUSTER}.upstream_cx_connect_fail")
    assert retries > 0, "Envoy must have met the dead sockets"


async def _statistic(client: httpx.AsyncClient, stack: Stack, name: str) -> int:
    text = (await client.get(f"{stack.envoy.admin}/stats?filter={name}$")).text
    return int(text.rpartition(":")[2])


async def test_a_pool_comes_goes_and_comes_back(stack: Stack, client: httpx.AsyncClient) -> None:
    """Its neighbours notice nothing, and what it has begun to answer is answered whole."""
    pool = inference_pool(
        "late", int(stack.endpoints[0].rpartition(":")[2]), "picker-close", "FailClose"
    )
    over = asyncio.Event()
    neighbours: list[int] = []

    async def ask_neighbours() -> None:
        while not over.is_set():
            neighbours.append((await echo(client, stack, "close")).status_code)

    load = asyncio.create_task(ask_neighbours())
    try:
        for _ in range(2):
            assert (await echo(client, stack, "late")).headers["x-inference-error"] == (
                "pool_unknown"
            )
            add_objects(stack, [pool], "late.yaml")
            await until(client, stack, "late", lambda answer: answer.status_code == 200)
            await _remove_while_it_answers(stack, client)
    finally:
        over.set()
        await load
    assert set(neighbours) == {200}
    await settled(stack)
    assert ext_proc_service(stack).budget.used == 0


async def _remove_while_it_answers(stack: Stack, client: httpx.AsyncClient) -> None:
    """Remove `late` in the middle of a stream of tokens; until Envoy has forgotten its cluster."""
    tokens = {"x-max-tokens": "40", "x-interval-ms": "50"}
    url = stack.pool_url("late") + "/v1/chat/completions"
    events = 0
    async with client.stream("POST", url, json={"stream": True}, headers=tokens) as answer:
        async for line in answer.aiter_lines():
            if not events and line.startswith("data: "):
                (stack.manifests / "late.yaml").unlink()
                await until(
                    client,
                    stack,
                    "late",
                    lambda refusal: refusal.headers.get("x-inference-error") == "pool_unknown",
                )
            events += line.startswith("data: ")
    assert events == 41, "40 tokens and [DONE]"
    cluster = cluster_name(PoolName("default", "late"))
    async with asyncio.timeout(60):
        while cluster in (await client.get(f"{stack.envoy.admin}/clusters")).text:
            await asyncio.sleep(0.01)
