"""The default deadlines on the real Envoy: who queues is waited for, who is stopped is found by health."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from epp_client.picker.health import Health
from epp_client.settings import TransportName
from testbed.stack import Stack, inference_pool, pod, running_stack, service, start_picker
from tests.e2e.tools import (
    add_objects,
    echo,
    metrics,
    recording_picker,
    remove_objects,
    settled,
    until,
    value,
)

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

POOLS = ["open-mute", "close-mute"]
QUEUED = 12
"""Seconds: more than any check, and than the deadline that was the default once."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName, client: httpx.AsyncClient) -> AsyncIterator[Stack]:
    """All deadlines are the defaults. The pickers of the pools `…-mute` have no health service."""
    defaults = {"tls": {"mode": "plaintext"}}
    async with running_stack(
        transport=transport, routes_to=[*POOLS, "plain"], pool_defaults=defaults
    ) as running:
        address = await start_picker(running, "mute", "127.0.0.1:0", "--no-health")
        port = int(running.endpoints[0].rpartition(":")[2])
        pools = [
            inference_pool(name, port, "picker-mute", f"Fail{name.partition('-')[0].capitalize()}")
            for name in POOLS
        ]
        add_objects(running, [*pools, *service("picker-mute", address)], "mute.yaml")
        for name in POOLS:
            await until(client, running, name, lambda answer: answer.status_code == 200)
        yield running


async def health_is(client: httpx.AsyncClient, stack: Stack, pool: str, wanted: Health) -> None:
    """Until `/pools` says so of the pool's picker."""
    url = f"http://{stack.sidecar.admin_address}/pools/default/{pool}"
    async with asyncio.timeout(60):
        while True:
            answer = await client.get(url)
            health = answer.json()["picker"]["health"] if answer.status_code == 200 else {}
            if {*health.values()} == {wanted}:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("pool", ["open", "close", *POOLS])
async def test_a_stopped_picker_is_found_by_its_health_and_not_by_the_deadline(
    stack: Stack, client: httpx.AsyncClient, pool: str
) -> None:
    """Also one without a health service: that it says so is an answer."""
    mode, _, mute = pool.partition("-")
    picker = stack.pickers[mute or mode]
    healthy = Health.UNKNOWN if mute else Health.SERVING
    await health_is(client, stack, pool, healthy)
    picker.signal(signal.SIGSTOP)
    try:
        waiting = await asyncio.gather(*(echo(client, stack, pool, b"x" * 2000) for _ in range(8)))
        later = await echo(client, stack, pool)
    finally:
        picker.signal(signal.SIGCONT)
    if mode == "open":
        assert {answer.status_code for answer in (*waiting, later)} == {200}
    else:
        errors = {answer.headers.get("x-inference-error") for answer in (*waiting, later)}
        assert errors == {"picker_unhealthy"}
    await settled(stack)
    families = await metrics(client, stack)
    family = "epp_client_fail_open" if mode == "open" else "epp_client_refused"
    labels = {"pool": f"default/{pool}"}
    assert value(families, family, **labels, reason="picker_unhealthy") == 9
    assert value(families, family, **labels, reason="picker_timeout") == 0
    await health_is(client, stack, pool, healthy)
    assert (await echo(client, stack, pool)).status_code == 200


async def test_a_response_waits_for_no_picker_that_is_stopped_amid_it(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    await health_is(client, stack, "close", Health.SERVING)
    url = stack.pool_url("close") + "/v1/chat/completions"
    tokens = {"x-max-tokens": "30", "x-interval-ms": "20"}
    events: list[str] = []
    try:
        async with client.stream(
            "POST", url, json={"stream": True}, headers=tokens, timeout=60
        ) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    events.append(line)
                if len(events) == 1:
                    stack.pickers["close"].signal(signal.SIGSTOP)
    finally:
        stack.pickers["close"].signal(signal.SIGCONT)
    assert (len(events), events[-1]) == (31, "data: [DONE]")
    await settled(stack)
    families = await metrics(client, stack)
    passed = "epp_client_response_passthrough"
    labels = {"pool": "default/close"}
    assert value(families, passed, **labels, reason="picker_unhealthy") == 1
    assert value(families, passed, **labels) == 1
    await health_is(client, stack, "close", Health.SERVING)


async def test_a_request_that_the_picker_queues_is_steered_when_its_turn_comes(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    chosen = stack.endpoints[1]
    answer = await client.post(
        stack.pool_url("close") + "/echo",
        content=b"hello",
        headers={
            "x-picker-dialect": "slow",
            "x-picker-delay-ms": str(QUEUED * 1000),
            "test-epp-endpoint-selection": chosen,
        },
        timeout=60,
    )
    assert (answer.status_code, answer.headers["x-model-server"]) == (200, chosen)


SLOW_MODEL = "127.0.0.24"
PAUSE = 2.5
"""Seconds within a plain answer: five times the pool's response timeout."""


async def _slow_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while await reader.readuntil(b"\r\n\r\n"):
            head = b"content-type: application/json\r\ncontent-length: 14\r\n\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n" + head + b'{"a": "')
            await asyncio.sleep(PAUSE)
            writer.write(b'Hello"}')
    writer.close()


@pytest.mark.parametrize("dialect", ["llm-d-0.10", "gaie-1.2"])
async def test_a_plain_answer_of_a_slow_model_keeps_what_the_picker_changes_at_its_end(
    stack: Stack, client: httpx.AsyncClient, dialect: str
) -> None:
    server = await asyncio.start_server(_slow_answer, SLOW_MODEL, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        member = pod("plain", SLOW_MODEL, app="plain")
        pool = inference_pool(
            "plain",
            port,
            "picker-plain",
            "FailClose",
            selector={"matchLabels": {"app": "plain"}},
            annotations={"epp-client.dev/response-timeout": "500ms"},
        )
        dialects = [dialect, "rewrite-response"]
        async with recording_picker("picker-plain", [f"{SLOW_MODEL}:{port}"], dialects) as (
            objects,
            _,
        ):
            add_objects(stack, [pool, member, *objects], "plain.yaml")
            await health_is(client, stack, "plain", Health.SERVING)
            answer = await client.get(stack.pool_url("plain") + "/v1/models", timeout=60)
            assert (answer.status_code, answer.json()) == (200, {"a": "Bonjour"})
            await settled(stack)
            families = await metrics(client, stack)
            assert value(families, "epp_client_response_passthrough", pool="default/plain") == 0
    await remove_objects(client, stack, "plain.yaml", "plain")
