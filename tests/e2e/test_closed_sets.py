"""Every reason and every metric family that the sidecar has, brought about through the real Envoy.

A new reason or metric fails here until somebody shows it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from copy import deepcopy
from typing import Any

import httpx
import pytest
import pytest_asyncio
from grpc import aio

from epp_client.data_plane.gaps import EVERY
from epp_client.envoy.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from epp_client.envoy.pool_clusters import cluster_name
from epp_client.errors import Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from epp_client.picker.client import PROCESS
from epp_client.pool.inference_pool import PoolName
from epp_client.relay.outcome import Outcome
from epp_client.settings import TransportName
from epp_client.xds.ads import METHOD as ADS_METHOD
from epp_client.xds.state import EDS
from testbed.ports import free_ports
from testbed.stack import Stack, inference_pool, pod, running_stack, service
from tests.e2e.replicas import replica
from tests.e2e.tools import (
    add_objects,
    connection_manager,
    echo,
    ext_proc_service,
    metrics,
    raw_stream,
    settled,
    until,
    value,
    with_subset_hints,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

Ask = Callable[[httpx.AsyncClient, Stack], Awaitable[httpx.Response]]


def _routes(bootstrap: dict[str, Any]) -> None:
    """A route that names no pool, and subset hints."""
    with_subset_hints(bootstrap)
    routes = connection_manager(bootstrap)["route_config"]["virtual_hosts"][0]["routes"]
    unnamed = deepcopy(routes[0])
    unnamed["match"] = {"prefix": "/default/unnamed/"}
    for per_route in unnamed["typed_per_filter_config"].values():
        del per_route["overrides"]["grpc_initial_metadata"]
    routes.insert(0, unnamed)
    for route in routes:
        if route["match"]["prefix"] == "/default/mute/":
            route["route"]["timeout"] = "0.5s"


def _pool_of(name: str, host: str, port: int) -> list[dict[str, Any]]:
    """A pool without a picker, of one Pod at `host`."""
    selector = {"matchLabels": {"app": name}}
    return [pod(name, host, app=name), inference_pool(name, port, None, "", selector=selector)]


async def _break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def _never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


BROKEN = {"deaf": "127.0.0.91", "rude": "127.0.0.92", "mute": "127.0.0.93"}
"""Pools whose only model server does not listen, breaks off, or never answers."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName) -> AsyncIterator[Stack]:
    more = ["ghost", "empty", "gone", "tight", "quick", "standby", *BROKEN]
    async with (
        running_stack(transport=transport, routes_to=more, edit_bootstrap=_routes) as running,
        replica(running.endpoints) as standby,
    ):
        standby.serving = False
        port = int(running.endpoints[0].rpartition(":")[2])
        servers = [
            await asyncio.start_server(serve, BROKEN[name], port)
            for name, serve in (("rude", _break_off), ("mute", _never_answer))
        ]
        [closed] = free_ports(1)
        add_objects(
            running,
            [
                inference_pool("empty", port, None, "", selector={"matchLabels": {"app": "none"}}),
                inference_pool("gone", port, "picker-gone", "FailClose"),
                *service("picker-gone", f"127.0.0.1:{closed}"),
                inference_pool("standby", port, "picker-standby", "FailClose"),
                *service("picker-standby", standby.address),
                *(item for name, host in BROKEN.items() for item in _pool_of(name, host, port)),
                inference_pool(
                    "tight",
                    port,
                    "picker-open",
                    "FailOpen",
                    annotations={
                        "epp-client.dev/max-retained-body": "1Ki",
                        "epp-client.dev/pick-timeout": "2s",
                    },
                ),
                inference_pool(
                    "quick",
                    port,
                    "picker-close",
                    "FailClose",
                    annotations={"epp-client.dev/pick-timeout": "2s"},
                ),
            ],
        )
        async with httpx.AsyncClient(timeout=60) as client:
            await until(client, running, "quick", lambda answer: answer.status_code == 200)
        yield running
        for server in servers:
            server.close()


def asking(pool: str, body: bytes = b"hello", **headers: str) -> Ask:
    return lambda client, stack: echo(client, stack, pool, body, **headers)


def dialect(name: str) -> Ask:
    return asking("quick", x_picker_dialect=name)


async def _outside_subset(client: httpx.AsyncClient, stack: Stack) -> httpx.Response:
    one, other, _ = stack.endpoints
    return await echo(
        client, stack, "quick", x_subset=one, x_picker_dialect="pick-list", x_picker_list=other
    )


def _impatient(bootstrap: dict[str, Any]) -> None:
    """Envoy listens without its clusters after a second, instead of 15."""
    bootstrap["dynamic_resources"]["cds_config"]["initial_fetch_timeout"] = "1s"


async def _not_synced(client: httpx.AsyncClient, stack: Stack) -> httpx.Response:
    async with running_stack(
        transport=stack.sidecar.settings.transport,
        write=lambda _: "kind: [unclosed",
        edit_bootstrap=_impatient,
    ) as unread:
        return await echo(client, unread, "close")


async def _overloaded(client: httpx.AsyncClient, stack: Stack) -> httpx.Response:
    async with running_stack(
        transport=stack.sidecar.settings.transport, max_exchanges=1
    ) as crowded:
        first = asyncio.create_task(
            echo(client, crowded, "close", x_picker_dialect="slow", x_picker_delay_ms="2000")
        )
        async with asyncio.timeout(60):
            while not ext_proc_service(crowded).open_sessions:
                await asyncio.sleep(0.01)
        refused = await echo(client, crowded, "close")
        assert refused.headers["retry-after"] == "1"
        assert (await first).status_code == 200
        return refused


async def _envoy_protocol(_: httpx.AsyncClient, stack: Stack) -> httpx.Response:
    """No Envoy does this: a stranger on the socket."""
    [answer] = await raw_stream(
        f"unix:{stack.sidecar.settings.socket}",
        PROCESS,
        [b"\xff\xff"],
        x_inference_pool="default/close",
    )
    immediate = ProcessingResponse.FromString(answer).immediate_response
    headers = {
        option.header.key: option.header.raw_value.decode()
        for option in immediate.headers.set_headers
    }
    return httpx.Response(immediate.status.code, headers=headers, content=immediate.body)


REASONS: dict[Reason, Ask] = {
    Reason.POOL_NOT_NAMED: asking("unnamed"),
    Reason.POOL_UNKNOWN: asking("ghost"),
    Reason.POOL_NOT_SYNCED: _not_synced,
    Reason.NO_READY_ENDPOINT: asking("empty"),
    Reason.SUBSET_EMPTY: asking("nopicker", x_subset="192.0.2.1:8000"),
    Reason.PICKER_UNRESOLVED: asking("lost"),
    Reason.PICKER_UNREACHABLE: asking("gone"),
    Reason.PICKER_UNHEALTHY: asking("standby"),
    Reason.PICKER_TIMEOUT: dialect("silent"),
    Reason.PICKER_ERROR: dialect("no-endpoints-status"),
    Reason.PICKER_CLOSED: dialect("close-before-pick"),
    Reason.PICKER_PROTOCOL: dialect("garbage-bytes"),
    Reason.PICK_MISSING: dialect("pick-none"),
    Reason.PICK_MALFORMED: dialect("pick-hostname"),
    Reason.PICK_DISAGREES: dialect("disagree"),
    Reason.PICK_OUTSIDE_POOL: dialect("pick-outside"),
    Reason.PICK_OUTSIDE_SUBSET: _outside_subset,
    Reason.ENDPOINT_UNREACHABLE: asking("deaf"),
    Reason.ENDPOINT_BROKE_OFF: asking("rude"),
    Reason.ENDPOINT_TIMEOUT: asking("mute"),
    Reason.BODY_NOT_RETAINED: asking("tight", os.urandom(100_000), x_picker_dialect="silent"),
    Reason.OVERLOADED: _overloaded,
    Reason.ENVOY_PROTOCOL: _envoy_protocol,
}


async def test_every_reason_has_its_request() -> None:
    assert set(REASONS) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
async def test_the_client_reads_the_reason(
    stack: Stack, client: httpx.AsyncClient, reason: Reason
) -> None:
    answer = await REASONS[reason](client, stack)
    allowed = {reason}
    if reason is Reason.PICKER_CLOSED and stack.sidecar.settings.transport == TransportName.GRPCIO:
        # its word for a clean close that crosses a write
        allowed.add(Reason.PICKER_ERROR)
    assert answer.headers["x-inference-error"] in allowed
    statuses = {
        Reason.ENVOY_PROTOCOL: 500,
        Reason.POOL_NOT_NAMED: 500,
        Reason.ENDPOINT_TIMEOUT: 504,
    }
    assert answer.status_code == statuses.get(reason, 503)
    error = answer.json()["error"]
    assert error["message"]
    assert error["code"] == answer.headers["x-inference-error"]
    # Without a first message in order there is no request to name.
    assert ("request_id" in error) == (reason is not Reason.ENVOY_PROTOCOL)


async def test_failing_open_without_the_body_is_counted_as_a_refusal(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """FailOpen has nothing to replay: no request goes on with half a body, and none counts as open."""
    labels = {"pool": "default/tight", "reason": "body_not_retained"}
    await settled(stack)
    before = await metrics(client, stack)
    answer = await REASONS[Reason.BODY_NOT_RETAINED](client, stack)
    assert answer.headers["x-inference-error"] == "body_not_retained"
    await settled(stack)
    after = await metrics(client, stack)
    refused = [value(families, "epp_client_refused", **labels) for families in (before, after)]
    assert refused[1] == refused[0] + 1
    opened = [value(item, "epp_client_fail_open", pool="default/tight") for item in (before, after)]
    assert opened[1] == opened[0]
    small = await echo(client, stack, "tight", b"x" * 1000, x_picker_dialect="silent")
    assert small.status_code == 200, "what fits is replayed"


async def _cancel(client: httpx.AsyncClient, stack: Stack) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await client.post(
            stack.pool_url("open") + "/echo",
            content=b"hello",
            headers={"x-picker-dialect": "silent"},
            timeout=httpx.Timeout(5, read=0.2),
        )


async def _reject_endpoints(stack: Stack) -> None:
    """What an Envoy does that cannot take what it is told."""
    async with aio.insecure_channel(f"unix:{stack.sidecar.settings.xds_socket}") as channel:
        call = channel.stream_stream(ADS_METHOD)()
        request = DiscoveryRequest(
            type_url=EDS, resource_names=[cluster_name(PoolName("default", "close"))]
        )
        await call.write(request.SerializeToString())
        push = DiscoveryResponse.FromString(await call.read())
        request.response_nonce = push.nonce
        request.error_detail.message = "no"
        await call.write(request.SerializeToString())
        async with asyncio.timeout(60):
            while stack.sidecar.metrics.xds_nacks.labels("eds")._value.get() == 0:
                await asyncio.sleep(0.01)


async def _reply_locally(stack: Stack) -> None:
    """What an Envoy sends whose other filter has answered."""
    message = ProcessingRequest()
    message.response_headers.end_of_stream = True
    socket = f"unix:{stack.sidecar.settings.socket}"
    named = {"x_inference_pool": "default/close"}
    [answer] = await raw_stream(socket, PROCESS, [message.SerializeToString()], **named)
    assert ProcessingResponse.FromString(answer).WhichOneof("response") == "response_headers"


ELSEWHERE = {
    "epp_client_workers": "tests/workers",
    "epp_client_worker_restarts": "tests/workers",
    "epp_client_retained_bytes": "test_what_is_kept_is_counted_while_it_is_kept",
    "epp_client_in_flight": "test_what_is_kept_is_counted_while_it_is_kept",
    "epp_client_picker_retries": "tests/e2e/test_health.py",
    "epp_client_certificate_not_after_seconds": "tests/admin/test_metrics.py",
}


async def test_every_metric_moves(stack: Stack, client: httpx.AsyncClient) -> None:
    for dialect_ in (
        "pick-after-body",
        "silent-response",
        "refuse-429",
        "invalid-mutation",
        "refuse-at-response",
    ):
        await echo(client, stack, "close", x_picker_dialect=dialect_)
    await echo(client, stack, "nopicker")
    await echo(client, stack, "deaf")
    # The gaps of one response of these are measured.
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    for _ in range(EVERY):
        answer = await client.post(stack.pool_url("open") + "/v1/chat/completions", json=chat)
        assert answer.status_code == 200
    for status in (499, 500, 503):
        await client.post(stack.pool_url("open") + f"/fail?status={status}", content=b"hello")
    await echo(client, stack, "open", x_picker_dialect="pick-outside")
    await echo(client, stack, "close", x_picker_dialect="pick-outside")
    await _cancel(client, stack)
    await _reply_locally(stack)
    await REASONS[Reason.BODY_NOT_RETAINED](client, stack)
    await _reject_endpoints(stack)
    await settled(stack)
    families = await metrics(client, stack)
    still = {name for name in families if value(families, name) == 0}
    assert still - ELSEWHERE.keys() == set()
    for outcome in Outcome:
        assert value(families, "epp_client_requests", outcome=outcome) > 0, outcome
    outside = {"reason": "pick_outside_pool"}
    assert value(families, "epp_client_fail_open", pool="default/open", **outside) == 1
    assert value(families, "epp_client_refused", pool="default/close", **outside) == 1
    assert value(families, "epp_client_response_passthrough", pool="default/close") == 1
    assert value(families, "epp_client_endpoint_errors", pool="default/open") == 2
    assert value(families, "epp_client_problems", severity="warning") == 1
    assert value(families, "epp_client_in_flight") == 0
    assert value(families, "epp_client_retained_bytes") == 0


async def test_what_is_kept_is_counted_while_it_is_kept(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    body = os.urandom(50_000)
    asked = asyncio.create_task(
        echo(client, stack, "close", body, x_picker_dialect="slow", x_picker_delay_ms="1000")
    )
    async with asyncio.timeout(60):
        while ext_proc_service(stack).budget.used < len(body):
            await asyncio.sleep(0.01)
    families = await metrics(client, stack)
    assert value(families, "epp_client_in_flight", pool="default/close") == 1
    assert value(families, "epp_client_retained_bytes") >= len(body)
    assert (await asked).status_code == 200
