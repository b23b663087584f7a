"""Endpoints that cannot be reached: what a client reads, what the access log says, who is tried next."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
import yaml
from grpc import aio

from epp_client.envoy.bootstrap import envoy_config
from epp_client.picker.unreachable import MEMORY
from epp_client.pool.inference_pool import PoolName
from epp_client.settings import TransportName, UpstreamMode
from testbed.stack import Stack, inference_pool, pod, running_stack
from tests.e2e.tools import add_objects, connection_manager, echo, metrics, routable, settled, value

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEAD = [f"127.0.0.{number}" for number in range(101, 141)]
"""Pods that are Ready, and listen to nothing."""


class Logged:
    """An installation with Envoy's access log in a file."""

    def __init__(self, stack: Stack, log: Path, port: int) -> None:
        self.stack = stack
        self._log = log
        self.port = port

    async def line(self, request_id: str) -> dict[str, Any]:
        """The line of one request. By itself Envoy flushes its file every ten seconds."""
        async with asyncio.timeout(60), httpx.AsyncClient() as admin:
            while True:
                await admin.post(f"{self.stack.envoy.admin}/reopen_logs")
                if self._log.exists():
                    for text in self._log.read_text().splitlines():
                        found: dict[str, Any] = json.loads(text)
                        if found["client_id"] == request_id:
                            return found
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def logged(
    transport: TransportName, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Logged]:
    log = tmp_path_factory.mktemp("log") / "access.log"

    def edit(bootstrap: dict[str, Any]) -> None:
        printed = yaml.safe_load(
            envoy_config(
                [PoolName("default", "any")],
                ext_proc_sockets=[Path("any.sock")],
                ads_socket=Path("any.sock"),
                access_log=True,
            )
        )
        [made] = connection_manager(printed)["access_log"]
        made["name"] = "envoy.access_loggers.file"
        made["typed_config"] |= {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(log),
        }
        made["typed_config"]["log_format"]["json_format"]["client_id"] = "%REQ(X-CLIENT-ID)%"
        connection_manager(bootstrap)["access_log"] = [made]
        with_routes_to_grpc(bootstrap)

    names = ["dead", "half"]
    async with running_stack(transport=transport, routes_to=names, edit_bootstrap=edit) as stack:
        port = int(stack.endpoints[0].rpartition(":")[2])
        add_objects(
            stack,
            [
                inference_pool("dead", port, None, "", **of("dead")),
                inference_pool("half", port, None, "", **of("half")),
                *(pod(f"dead-{host}", host, app="dead") for host in DEAD[:3]),
                *(pod(f"half-{host}", host, app="half") for host in DEAD),
                pod("half-good", stack.endpoints[0].rpartition(":")[0], app="half"),
            ],
        )
        await routable(stack, "dead", [f"{host}:{port}" for host in DEAD[:3]])
        await routable(stack, "half", [stack.endpoints[0], *(f"{host}:{port}" for host in DEAD)])
        yield Logged(stack, log, port)


def with_routes_to_grpc(bootstrap: dict[str, Any]) -> None:
    """gRPC calls, whose paths are no prefix of a pool's, go to the pool of the dead."""
    routes = connection_manager(bootstrap)["route_config"]["virtual_hosts"][0]["routes"]
    [dead] = [
        r for r in routes if r["name"] == "default/dead" and "dynamic_metadata" not in r["match"]
    ]
    grpc_route = json.loads(json.dumps(dead))
    grpc_route["match"] = {"prefix": "/any.Service/"}
    grpc_route["route"].pop("prefix_rewrite", None)
    routes.insert(0, grpc_route)


def of(app: str) -> dict[str, Any]:
    return {"selector": {"matchLabels": {"app": app}}}


async def test_a_list_of_dead_endpoints_is_a_503_that_says_so(
    logged: Logged, client: httpx.AsyncClient
) -> None:
    stack = logged.stack
    await settled(stack)
    before = await metrics(client, stack)
    listed = ",".join(f"{host}:{logged.port}" for host in DEAD[:3])
    answer = await echo(client, stack, "dead", x_client_id="dead")
    assert (answer.status_code, answer.headers["x-inference-error"]) == (
        503,
        "endpoint_unreachable",
    )
    error = answer.json()["error"]
    assert error["code"] == "endpoint_unreachable"
    assert error["type"] == "inference_endpoint_unavailable"
    assert error["message"].startswith("InferencePool default/dead: no chosen endpoint could be ")
    line = await logged.line("dead")
    assert (line["error"], line["attempts"], line["pool"]) == (
        "endpoint_unreachable",
        # Each once, and once more, when there is none left.
        4,
        "default/dead",
    )
    assert sorted(line["picked"].split(",")) == sorted(listed.split(","))
    await settled(stack)
    after = await metrics(client, stack)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("epp_client_endpoint_failures", reason="endpoint_unreachable") == 1
    assert grown("epp_client_endpoints_passed_over", pool="default/dead") == 3
    assert grown("epp_client_requests", outcome="local_pick") == 1
    assert grown("epp_client_refused") == 0


async def test_a_grpc_client_gets_a_status_and_the_sentence(logged: Logged) -> None:
    async with aio.insecure_channel(logged.stack.url.removeprefix("http://")) as channel:
        call = channel.unary_unary("/any.Service/Call")(b"x", timeout=10)
        with pytest.raises(aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    details = caught.value.details() or ""
    assert "no chosen endpoint could be connected to" in details
    assert "{" not in details
    # An answer of trailers alone.
    metadata = dict(caught.value.trailing_metadata() or ())
    assert metadata["x-inference-error"] == "endpoint_unreachable"


async def test_a_few_requests_find_the_only_endpoint_that_listens(
    logged: Logged, client: httpx.AsyncClient
) -> None:
    """40 of 41 Pods take no connection: each failure teaches, and then nobody meets them for a while.
    Which are met, and when, is luck. That one is not met twice while it is remembered is not."""
    before, started = await metrics(client, logged.stack), time.monotonic()
    answers = [await echo(client, logged.stack, "half") for _ in range(20)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[4:] == [200] * 16, statuses
    await settled(logged.stack)
    after, memories = await metrics(client, logged.stack), (time.monotonic() - started) // MEMORY
    counted = [
        value(numbers, "epp_client_endpoints_passed_over", pool="default/half")
        for numbers in (before, after)
    ]
    assert 0 < counted[1] - counted[0] <= len(DEAD) * (1 + memories)


@pytest.mark.parametrize("pool", ["open", "close"])
async def test_the_access_log_has_what_the_picker_said(
    logged: Logged, client: httpx.AsyncClient, pool: str
) -> None:
    answer = await echo(
        client,
        logged.stack,
        pool,
        x_client_id=f"said-{pool}",
        x_picker_dialect="pick-list",
        x_picker_list="192.0.2.7:8000",
    )
    line = await logged.line(f"said-{pool}")
    assert (line["picker_said"], line["status"]) == ("192.0.2.7:8000", answer.status_code)
    if pool == "open":
        assert line["fallback"] == "pick_outside_pool"
        # One of the pool's Pods does not listen: Envoy tries another, wherever that is in the list.
        members = {*logged.stack.endpoints, logged.stack.dead_endpoint}
        assert set(line["picked"].split(",")) == members
        assert line["served"] in logged.stack.endpoints
    else:
        assert line["error"] == "pick_outside_pool"


async def test_with_original_dst_the_only_destination_is_dead(
    transport: TransportName, client: httpx.AsyncClient
) -> None:
    async with running_stack(
        transport=transport, routes_to=["dead"], upstream_mode=UpstreamMode.ORIGINAL_DST
    ) as stack:
        port = int(stack.endpoints[0].rpartition(":")[2])
        add_objects(
            stack,
            [
                inference_pool("dead", port, None, "", **of("dead")),
                pod("dead", DEAD[0], app="dead"),
            ],
        )
        async with asyncio.timeout(60):
            while "default/dead" not in stack.sidecar.store.snapshots:
                await asyncio.sleep(0.02)
        answer = await echo(client, stack, "dead")
        assert (answer.status_code, answer.headers["x-inference-error"]) == (
            503,
            "endpoint_unreachable",
        )
