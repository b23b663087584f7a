"""What changes while Envoy runs: pickers die and come back, manifests are edited, the sidecar drains."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from testbed.stack import Stack, pod, start_picker

from .tools import add_objects, echo, ext_proc_service, routable, settled, until

pytestmark = pytest.mark.asyncio(loop_scope="session")


def edit(stack: Stack, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every object of the manifests in place; written by renaming, as editors do."""
    path = stack.manifests / "all.yaml"
    objects = list(yaml.safe_load_all(path.read_text()))
    for item in objects:
        change(item)
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump_all(objects))
    new.rename(path)


async def test_a_killed_picker_and_its_return(own_stack: Stack, client: httpx.AsyncClient) -> None:
    stack = own_stack
    address = next(iter(stack.sidecar.store.snapshots["default/close"].picker.addresses))  # type: ignore[union-attr]
    for name in ("open", "close"):
        await stack.pickers[name].kill()
    answer = await echo(client, stack, "open")
    assert (answer.status_code, answer.headers["x-inference-fallback"]) == (
        200,
        "picker_unreachable",
    )
    refused = await echo(client, stack, "close")
    assert refused.headers["x-inference-error"] == "picker_unreachable"
    await start_picker(stack, "close", address)
    await until(client, stack, "close", lambda answer: answer.status_code == 200)


async def test_a_list_is_walked_past_every_dead_entry(
    own_stack: Stack, client: httpx.AsyncClient
) -> None:
    good = own_stack.endpoints[2]
    port = good.rpartition(":")[2]
    hosts = [f"127.0.0.{number}" for number in range(91, 98)]
    dead = [f"{host}:{port}" for host in hosts]
    add_objects(own_stack, [pod(f"gone-{host}", host) for host in hosts], "gone.yaml")
    await routable(own_stack, "close", dead)
    answer = await echo(
        client,
        own_stack,
        "close",
        x_picker_dialect="pick-list",
        x_picker_list=",".join((*dead, good)),
    )
    assert (answer.status_code, answer.headers.get("x-model-server")) == (200, good)
    assert "x-inference-fallback" not in answer.headers


async def test_a_stopped_picker_costs_the_pick_timeout_at_most(
    own_stack: Stack, client: httpx.AsyncClient
) -> None:
    await echo(client, own_stack, "open")
    own_stack.pickers["open"].signal(signal.SIGSTOP)
    answer = await echo(client, own_stack, "open")
    assert answer.status_code == 200
    own_stack.pickers["open"].signal(signal.SIGCONT)
    await settled(own_stack)
    metrics = await client.get(f"http://{own_stack.sidecar.admin_address}/metrics")
    # Its silence is found out before the deadline, unless this machine is very busy.
    line = 'epp_client_fail_open_total{{namespace="default",pool="open",reason="{}"}} 1.0'
    reasons = ("picker_unhealthy", "picker_timeout")
    assert any(line.format(reason) in metrics.text for reason in reasons)


async def test_an_app_protocol_flip_reaches_envoy_without_a_failed_request(
    own_stack: Stack, client: httpx.AsyncClient
) -> None:
    def to_h2c(item: dict[str, Any]) -> None:
        if item["kind"] == "InferencePool" and item["metadata"]["name"] == "close":
            item["spec"]["appProtocol"] = "kubernetes.io/h2c"

    assert (await echo(client, own_stack, "close")).headers["x-http-version"] == "1.1"
    edit(own_stack, to_h2c)
    answers = await until(
        client, own_stack, "close", lambda answer: answer.headers.get("x-http-version") == "2"
    )
    assert {answer.status_code for answer in answers} == {200}


async def test_pods_come_and_go_and_failure_modes_flip(
    own_stack: Stack, client: httpx.AsyncClient
) -> None:
    gone = own_stack.endpoints[0]

    def change(item: dict[str, Any]) -> None:
        if item["kind"] == "Pod" and item["status"]["podIP"] == gone.rpartition(":")[0]:
            item["metadata"]["labels"] = {"app": "another"}
        if item["kind"] == "InferencePool" and item["metadata"]["name"] == "open":
            item["spec"]["endpointPickerRef"]["failureMode"] = "FailClose"

    edit(own_stack, change)
    steer = {"test_epp_endpoint_selection": gone}
    await until(
        client,
        own_stack,
        "open",
        lambda answer: answer.headers.get("x-inference-error") == "pick_outside_pool",
        **steer,
    )


async def test_a_broken_edit_is_reported_and_the_last_good_state_serves(
    own_stack: Stack, client: httpx.AsyncClient
) -> None:
    store = own_stack.sidecar.store
    (own_stack.manifests / "all.yaml").write_text("kind: [unclosed")
    (own_stack.manifests / "more.yaml").write_text("kind: [unclosed")
    async with asyncio.timeout(60):
        while not store.problems or "more.yaml" not in str(store.problems):
            await echo(client, own_stack, "close")
    assert (await echo(client, own_stack, "close")).status_code == 200


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
    own_stack: Stack, client: httpx.AsyncClient
) -> None:
    """Stopped in the middle of a response of 100 MB: its copies are cut, the client's bytes are not."""
    size = 100_000_000
    url = own_stack.pool_url("observe") + f"/echo?size={size}"
    got, memory = 0, []
    async with client.stream("POST", url, content=b"x") as answer:
        async for part in answer.aiter_bytes():
            if not got:
                own_stack.pickers["close"].signal(signal.SIGSTOP)
            got += len(part)
            memory.append(psutil.Process().memory_info().rss)
    own_stack.pickers["close"].signal(signal.SIGCONT)
    assert got == size
    # 3 MB; with grpcio, which buffers by itself, 23, and once 56 in a process of many tests.
    assert max(memory) - memory[0] < size * 0.8, "the copies must not pile up"
    await settled(own_stack)


async def test_a_client_that_does_not_read_stops_the_model_and_leaves_memory_flat(
    own_stack: Stack, client: httpx.AsyncClient
) -> None:
    """Of a response of 100 MB, which the picker sees: what nobody takes is not taken from the model."""
    size, process = 100_000_000, psutil.Process()
    url = own_stack.pool_url("close") + f"/echo?size={size}"
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
    await settled(own_stack)
