"""What changes while Envoy runs: pickers die and come back, manifests are edited, the sidecar drains.

The tests share an installation, and each leaves it as it was.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import psutil
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from epp_client.settings import TransportName
from testbed.stack import Stack, pod, running_stack, start_picker

from .tools import (
    add_objects,
    echo,
    edited,
    ext_proc_service,
    metrics,
    replace_manifest,
    routable,
    settled,
    until,
    value,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName) -> AsyncIterator[Stack]:
    """Not the one of all end-to-end tests: what fails here must not spoil it."""
    async with running_stack(transport=transport) as running:
        yield running


async def test_a_killed_picker_and_its_return(stack: Stack, client: httpx.AsyncClient) -> None:
    addresses = {
        name: next(iter(stack.sidecar.store.snapshots[f"default/{name}"].picker.addresses))  # type: ignore[union-attr]
        for name in ("open", "close")
    }
    for name in addresses:
        await stack.pickers[name].kill()
    answer = await echo(client, stack, "open")
    assert (answer.status_code, answer.headers["x-inference-fallback"]) == (
        200,
        "picker_unreachable",
    )
    refused = await echo(client, stack, "close")
    assert refused.headers["x-inference-error"] == "picker_unreachable"
    for name, address in addresses.items():
        await start_picker(stack, name, address)
    await until(client, stack, "close", lambda answer: answer.status_code == 200)
    await until(client, stack, "open", lambda answer: "x-inference-fallback" not in answer.headers)


async def test_a_list_is_walked_past_every_dead_entry(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    good = stack.endpoints[2]
    port = good.rpartition(":")[2]
    hosts = [f"127.0.0.{number}" for number in range(91, 98)]
    dead = [f"{host}:{port}" for host in hosts]
    add_objects(stack, [pod(f"gone-{host}", host) for host in hosts], "gone.yaml")
    await routable(stack, "close", dead)
    answer = await echo(
        client,
        stack,
        "close",
        x_picker_dialect="pick-list",
        x_picker_list=",".join((*dead, good)),
    )
    assert (answer.status_code, answer.headers.get("x-model-server")) == (200, good)
    assert "x-inference-fallback" not in answer.headers
    (stack.manifests / "gone.yaml").unlink()


async def test_a_stopped_picker_costs_the_pick_timeout_at_most(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    async def failed_open() -> float:
        await settled(stack)
        families = await metrics(client, stack)
        # Its silence is found out before the deadline, unless this machine is very busy.
        return sum(
            value(families, "epp_client_fail_open", pool="default/open", reason=reason)
            for reason in ("picker_unhealthy", "picker_timeout")
        )

    await echo(client, stack, "open")
    before = await failed_open()
    stack.pickers["open"].signal(signal.SIGSTOP)
    answer = await echo(client, stack, "open")
    assert answer.status_code == 200
    stack.pickers["open"].signal(signal.SIGCONT)
    assert await failed_open() == before + 1
    await until(client, stack, "open", lambda answer: "x-inference-fallback" not in answer.headers)


async def test_an_app_protocol_flip_reaches_envoy_without_a_failed_request(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    def to_h2c(item: dict[str, Any]) -> None:
        if item["kind"] == "InferencePool" and item["metadata"]["name"] == "close":
            item["spec"]["appProtocol"] = "kubernetes.io/h2c"

    assert (await echo(client, stack, "close")).headers["x-http-version"] == "1.1"
    async with edited(stack, to_h2c):
        answers = await until(
            client, stack, "close", lambda answer: answer.headers.get("x-http-version") == "2"
        )
    answers += await until(
        client, stack, "close", lambda answer: answer.headers.get("x-http-version") == "1.1"
    )
    assert {answer.status_code for answer in answers} == {200}


async def test_pods_come_and_go_and_failure_modes_flip(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    gone = stack.endpoints[0]

    def change(item: dict[str, Any]) -> None:
        if item["kind"] == "Pod" and item["status"]["podIP"] == gone.rpartition(":")[0]:
            item["metadata"]["labels"] = {"app": "another"}
        if item["kind"] == "InferencePool" and item["metadata"]["name"] == "open":
            item["spec"]["endpointPickerRef"]["failureMode"] = "FailClose"

    steer = {"test_epp_endpoint_selection": gone}
    async with edited(stack, change):
        await until(
            client,
            stack,
            "open",
            lambda answer: answer.headers.get("x-inference-error") == "pick_outside_pool",
            **steer,
        )
    await until(
        client,
        stack,
        "open",
        lambda answer: answer.headers.get("x-model-server") == gone,
        **steer,
    )


async def test_a_broken_edit_is_reported_and_the_last_good_state_serves(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    store = stack.sidecar.store
    before = store.problems
    good, more = (stack.manifests / "all.yaml").read_text(), stack.manifests / "more.yaml"
    (stack.manifests / "all.yaml").write_text("kind: [unclosed")
    more.write_text("kind: [unclosed")
    async with asyncio.timeout(60):
        while not store.problems or "more.yaml" not in str(store.problems):
            await echo(client, stack, "close")
    assert (await echo(client, stack, "close")).status_code == 200
    replace_manifest(stack, good)
    more.unlink()
    async with asyncio.timeout(60):
        while store.problems != before:
            await echo(client, stack, "close")


async def test_the_admin_page(stack: Stack, client: httpx.AsyncClient) -> None:
    await echo(client, stack, "close")
    # it is counted when its stream ends, after its answer
    await settled(stack)
    base = f"http://{stack.sidecar.admin_address}"
    async with aiohttp.ClientSession() as session:
        for path in ("/", "/livez", "/readyz", "/pools/default/close"):
            async with session.get(base + path) as answer:
                assert answer.status == 200, path
        async with session.get(base + "/pools") as answer:
            pools = {pool["name"]: pool for pool in (await answer.json())["pools"]}
        assert (
            pools["lost"]["picker"]["problem"] == "Service default/no-such-service does not exist"
        )
        assert pools["close"]["acknowledgedGeneration"] == pools["close"]["generation"]
        async with session.get(base + "/pools/default/none") as answer:
            assert answer.status == 404
        async with session.get(base + "/metrics") as answer:
            families = {f.name: f for f in text_string_to_metric_families(await answer.text())}
    steered = [
        s for s in families["epp_client_requests"].samples if s.labels["outcome"] == "steered"
    ]
    assert any(sample.value > 0 for sample in steered)
    assert families["epp_client_envoys_connected"].samples[0].value == 1


async def test_nothing_is_left_of_finished_requests(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    for dialect in ("pick-after-body", "silent-response", "garbage-bytes", "refuse-429"):
        await echo(client, stack, "open", x_picker_dialect=dialect)
    await settled(stack)
    assert ext_proc_service(stack).budget.used == 0


async def test_a_client_that_hangs_up_is_forgotten(stack: Stack, client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await client.post(
            stack.pool_url("open") + "/echo",
            content=b"x" * 100_000,
            headers={"x-picker-dialect": "silent"},
            timeout=httpx.Timeout(5, read=0.3),
        )
    await settled(stack)
    assert ext_proc_service(stack).budget.used == 0


async def test_a_picker_that_only_observes_holds_nothing_up(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """Stopped in the middle of a response of 100 MB: its copies are cut, the client's bytes are not."""
    size = 100_000_000
    url = stack.pool_url("observe") + f"/echo?size={size}"
    got, memory = 0, []
    async with client.stream("POST", url, content=b"x") as answer:
        async for part in answer.aiter_bytes():
            if not got:
                stack.pickers["close"].signal(signal.SIGSTOP)
            got += len(part)
            memory.append(psutil.Process().memory_info().rss)
    stack.pickers["close"].signal(signal.SIGCONT)
    assert got == size
    # 3 MB; with grpcio, which buffers by itself, 23, and once 56 in a process of many tests.
    assert max(memory) - memory[0] < size * 0.8, "the copies must not pile up"
    await settled(stack)
    await until(client, stack, "close", lambda answer: answer.status_code == 200)


async def test_a_client_that_does_not_read_stops_the_model_and_leaves_memory_flat(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """Of a response of 100 MB, which the picker sees: what nobody takes is not taken from the model."""
    size, process = 100_000_000, psutil.Process()
    url = stack.pool_url("close") + f"/echo?size={size}"
    async with client.stream("POST", url, content=b"x") as answer:
        parts = answer.aiter_bytes()
        got = len(await anext(parts))
        before = process.memory_info().rss
        still = 0
        async with asyncio.timeout(60):
            # a second without growth: everybody waits for the client
            while still < 20:
                last = process.memory_info().rss
                await asyncio.sleep(0.05)
                still = still + 1 if process.memory_info().rss <= last + 100_000 else 0
        held = process.memory_info().rss - before
        async for part in parts:
            got += len(part)
    assert got == size
    assert held < size / 4
    await settled(stack)
