"""Which endpoints a pool has, and which of them a request may go to: subset hints, IPv6, ports."""

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import ListValue, Value

from epp_client.settings import TransportName
from testbed.conversation import Record
from testbed.process import Process
from testbed.stack import Stack, inference_pool, pod, running_stack
from tests.e2e.tools import add_objects, echo, record_of, recording_picker, until, with_subset_hints

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName) -> AsyncIterator[Stack]:
    async with running_stack(
        transport=transport,
        routes_to=["subset", "subset-open", "six", "ports"],
        edit_bootstrap=with_subset_hints,
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seen(stack: Stack) -> AsyncIterator[list[Record]]:
    """Pools `subset` (FailClose) and `subset-open` with a picker that tells what it has seen."""
    port = int(stack.endpoints[0].rpartition(":")[2])
    async with recording_picker("recorder", list(stack.endpoints)) as (objects, records):
        pools = [
            inference_pool("subset", port, "recorder", "FailClose"),
            inference_pool("subset-open", port, "recorder", "FailOpen"),
        ]
        add_objects(stack, [*objects, *pools], "subset.yaml")
        async with httpx.AsyncClient() as client:
            await until(client, stack, "subset-open", lambda answer: answer.status_code == 200)
        yield records


def as_list(*endpoints: str) -> str:
    """A ListValue as the header_to_metadata filter takes it."""
    values = ListValue(values=[Value(string_value=endpoint) for endpoint in endpoints])
    return base64.b64encode(Value(list_value=values).SerializeToString()).decode()


@pytest.mark.parametrize("form", ["x_subset", "x_subset_list"])
async def test_a_subset_hint_reaches_the_picker_and_binds_it(
    stack: Stack, seen: list[Record], client: httpx.AsyncClient, form: str
) -> None:
    subset = stack.endpoints[1:]
    said = ",".join(subset) if form == "x_subset" else as_list(*subset)
    asked: dict[str, Any] = {form: said, "x_mark": form}
    answers = [await echo(client, stack, "subset", **asked) for _ in range(6)]
    assert {answer.headers["x-model-server"] for answer in answers} == set(subset)
    assert (await record_of(seen, form)).subset == subset


async def test_the_hint_is_cut_to_ready_members(
    stack: Stack, seen: list[Record], client: httpx.AsyncClient
) -> None:
    """The picker cannot be misled to what the pool does not have."""
    said = f"192.0.2.1:8000,{stack.endpoints[0]},not an endpoint"
    answer = await echo(client, stack, "subset", x_subset=said, x_mark="cut")
    assert answer.headers["x-model-server"] == stack.endpoints[0]
    assert (await record_of(seen, "cut")).subset == (stack.endpoints[0],)


@pytest.mark.parametrize("pool", ["subset", "subset-open", "nopicker"])
async def test_nothing_eligible_is_a_503_whatever_the_failure_mode(
    stack: Stack, seen: list[Record], client: httpx.AsyncClient, pool: str
) -> None:
    answer = await echo(client, stack, pool, x_subset="192.0.2.1:8000")
    assert answer.status_code == 503
    assert answer.headers["x-inference-error"] == "subset_empty"


async def test_failing_open_stays_within_the_subset(
    stack: Stack, seen: list[Record], client: httpx.AsyncClient
) -> None:
    only = stack.endpoints[2]
    for _ in range(6):
        answer = await echo(
            client, stack, "subset-open", x_subset=only, x_picker_dialect="pick-outside"
        )
        assert answer.headers["x-model-server"] == only


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def two_ports(stack: Stack) -> AsyncIterator[tuple[int, int]]:
    """A second model server beside the first on two Pods, and IPv6 ones on ::1."""
    async with AsyncExitStack() as owner:
        first = int(stack.endpoints[0].rpartition(":")[2])
        second = 0
        for host in ("127.0.0.11", "127.0.0.12"):
            second = await _model(owner, f"{host}:{second}")
        assert await _model(owner, f"[::1]:{first}") == first
        yield first, second


async def _model(owner: AsyncExitStack, listen: str) -> int:
    process, ready = await Process.python("testbed.model_server", "--listen", listen)
    owner.push_async_callback(process.stop, 1)
    return int(ready["address"].rpartition(":")[2])


async def test_ipv6_endpoints(
    stack: Stack, two_ports: tuple[int, int], client: httpx.AsyncClient
) -> None:
    port, _ = two_ports
    six = pod("six", "0:0:0:0:0:0:0:1", app="six")
    pool = inference_pool(
        "six", port, "picker-close", "FailClose", selector={"matchLabels": {"app": "six"}}
    )
    add_objects(stack, [six, pool], "six.yaml")
    steer = {"x_picker_dialect": "pick-list", "x_picker_list": f"[::1]:{port}"}
    answers = await until(client, stack, "six", lambda answer: answer.status_code == 200, **steer)
    assert answers[-1].headers["x-model-server"] == f"[::1]:{port}"
    assert answers[-1].headers["x-conformance-test-served-endpoint"] == f"[::1]:{port}"


def ports_pool(first: int, second: int, active: str | None) -> list[dict[str, Any]]:
    """A pool with two target ports over two Pods, the second of which has `active` ports."""
    pods = [pod(f"ports-{i}", f"127.0.0.1{i + 1}", app="ports") for i in range(2)]
    if active is not None:
        pods[1]["metadata"]["annotations"] = {"inference.networking.k8s.io/active-ports": active}
    pool = inference_pool(
        "ports",
        first,
        "picker-close",
        "FailClose",
        selector={"matchLabels": {"app": "ports"}},
        targetPorts=[{"number": first}, {"number": second}],
    )
    return [*pods, pool]


async def test_every_active_port_of_a_pod_is_an_endpoint(
    stack: Stack, two_ports: tuple[int, int], client: httpx.AsyncClient
) -> None:
    first, second = two_ports
    steer = {"x_picker_dialect": "pick-list", "x_picker_list": f"127.0.0.12:{second}"}
    add_objects(stack, ports_pool(first, second, None), "ports.yaml")
    answers = await until(client, stack, "ports", lambda answer: answer.status_code == 200, **steer)
    assert answers[-1].headers["x-model-server"] == f"127.0.0.12:{second}"
    add_objects(stack, ports_pool(first, second, str(first)), "ports.yaml")
    await until(
        client,
        stack,
        "ports",
        lambda answer: answer.headers.get("x-inference-error") == "pick_outside_pool",
        **steer,
    )
    for key in (f"127.0.0.11:{second}", f"127.0.0.12:{first}"):
        answer = await echo(client, stack, "ports", x_picker_dialect="pick-list", x_picker_list=key)
        assert answer.headers["x-model-server"] == key
    add_objects(stack, ports_pool(first, second, str(second)), "ports.yaml")
    await until(client, stack, "ports", lambda answer: answer.status_code == 200, **steer)
