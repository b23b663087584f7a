"""Pools behind a Gateway's routes: the real Envoy, the sidecar, and a picker for each pool."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import pytest
import pytest_asyncio

from epp_client.gateway.table import Backend, Entry, Forward, HeaderChange, Host, PathChange
from epp_client.pool.inference_pool import PoolName
from testbed.conversation import Record
from testbed.stack import ENVOY_HOST, Stack, pod, running_stack

from .gateways import ECHO, RunningGateway, entry, running_gateway
from .h2_peer import Message, h2_request, h2_server
from .test_h2c import h2c_pool
from .tools import add_objects, record_of, recording_picker

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODES = {"left": "relay", "right": "skip"}


@dataclass
class Pools:
    """Two pools with a model server and a picker each, and what these have seen."""

    gateway: RunningGateway
    stack: Stack
    requests: dict[str, list[Message]] = field(default_factory=dict)
    records: dict[str, list[Record]] = field(default_factory=dict)

    async def ask(self, mark: str, path: str = "/") -> Message:
        """A request with trailers over the plaintext port."""
        request = Message({"x-mark": mark}, b"a prompt", {"x-late": "1"})
        return await h2_request(ENVOY_HOST, self.gateway.ports[0], path, request)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pools() -> AsyncIterator[Pools]:
    async with AsyncExitStack() as owner:
        stack = await owner.enter_async_context(running_stack())
        sidecar = stack.sidecar
        made = Pools(
            await owner.enter_async_context(
                running_gateway(sidecar.store, sidecar.settings.sockets)
            ),
            stack,
        )
        objects = []
        for name, host in (("left", "127.0.0.23"), ("right", "127.0.0.24")):
            answer = Message({"x-served-by": name}, b"an answer", {"x-end": name})
            port, made.requests[name] = await owner.enter_async_context(h2_server(host, answer))
            picker, made.records[name] = await owner.enter_async_context(
                recording_picker(name, [f"{host}:{port}"])
            )
            more = h2c_pool(name, port, name, MODES[name], name)
            objects += [*picker, more, pod(name, host, app=name)]
        add_objects(stack, objects)
        async with asyncio.timeout(60):
            while not sidecar.store.snapshots.keys() >= {"default/left", "default/right"}:
                await asyncio.sleep(0.02)
        yield made


def pool_of(name: str) -> Backend:
    marked = HeaderChange(set=(("x-chosen", name),))
    return Backend(PoolName("default", name), 40, marked, marked)


async def test_two_pools_and_a_service_share_a_route(pools: Pools) -> None:
    """The chosen pool's picker is asked, once, and for the Service none. Requests have trailers, so that
    Envoy chooses the route twice: it must choose the same pool again."""
    shared = Forward((pool_of("left"), pool_of("right"), Backend(ECHO, 20)))
    await pools.gateway.serve(pools.gateway.table(Host("*", (entry("/", shared),))))
    answers = {f"shared-{number}": await pools.ask(f"shared-{number}") for number in range(60)}
    chosen = Counter(answer.headers.get("x-chosen", "service") for answer in answers.values())
    assert chosen.keys() == {"left", "right", "service"}
    for mark, answer in answers.items():
        name = answer.headers.get("x-chosen")
        assert answer.headers[":status"] == "200"
        seen = {
            pool: [request for request in requests if request.headers.get("x-mark") == mark]
            for pool, requests in pools.requests.items()
        }
        if name is None:
            assert not any(seen.values())
            continue
        [request] = seen.pop(name)
        assert (request.body, request.trailers) == (b"a prompt", {"x-late": "1"})
        assert request.headers["x-chosen"] == name
        assert not any(seen.values())
        assert (answer.headers["x-served-by"], answer.trailers) == (name, {"x-end": name})
        record = await record_of(pools.records[name], mark)
        assert any(phase.startswith("response") for phase in record.phases) == (name == "left")
    asked = [record for records in pools.records.values() for record in records]
    assert len(asked) == chosen["left"] + chosen["right"]


async def test_a_route_of_one_pool_with_a_new_path_and_host(pools: Pools) -> None:
    """The picker sees the request as the client has sent it."""
    action = Forward(
        (Backend(PoolName("default", "left")),), "up.example.com", PathChange("/", whole=False)
    )
    await pools.gateway.serve(pools.gateway.table(Host("*", (entry("/models", action),))))
    answer = await pools.ask("one", "/models/v1/completions")
    assert answer.headers[":status"] == "200"
    [request] = [item for item in pools.requests["left"] if item.headers.get("x-mark") == "one"]
    assert request.headers[":path"] == "/v1/completions"
    assert request.headers[":authority"] == "up.example.com"
    record = await record_of(pools.records["left"], "one")
    assert record.headers[":path"] == "/models/v1/completions"


async def test_a_pool_that_does_not_exist_and_an_endpoint_that_is_down(pools: Pools) -> None:
    """The first is refused by the sidecar, the second by Envoy, whose sentence names the route."""
    close, dead = PoolName("default", "close"), pools.stack.dead_endpoint

    def rows(*names: str) -> tuple[Entry, ...]:
        return tuple(
            entry(f"/{name}", Forward((Backend(PoolName("default", name)),))) for name in names
        )

    await pools.gateway.serve(pools.gateway.table(Host("*", rows("missing", close.name))))
    async with httpx.AsyncClient() as client:
        unknown = await client.post(f"{pools.gateway.url}/missing")
        assert unknown.headers["x-inference-error"] == "pool_unknown"
        headers = {"x-picker-dialect": "pick-list", "x-picker-list": dead}
        refused = await client.post(f"{pools.gateway.url}/close", headers=headers)
    assert refused.headers["x-inference-error"] == "endpoint_unreachable"
    assert "HTTPRoute default/test /close" in refused.json()["error"]["message"]
