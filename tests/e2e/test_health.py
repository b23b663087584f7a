"""Replicas of a picker that stand by, hang, restart: what clients see of it, through the real Envoy."""

import asyncio
import hashlib
import signal
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from epp_client.picker.health import Health
from epp_client.settings import TransportName
from testbed.stack import Stack, inference_pool, running_stack, start_picker
from tests.e2e.replicas import replica, replicated_service
from tests.e2e.tools import add_objects, echo, metrics, settled, until, value

pytestmark = pytest.mark.asyncio(loop_scope="session")

POOLS = ["led", "stopped", "rolled", "lonely"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName) -> AsyncIterator[Stack]:
    async with running_stack(transport=transport, routes_to=POOLS) as running:
        yield running


async def add_pool(
    client: httpx.AsyncClient,
    stack: Stack,
    name: str,
    mode: str,
    addresses: list[str],
    pick_timeout: str,
) -> None:
    port = int(stack.endpoints[0].rpartition(":")[2])
    pool = inference_pool(
        name, port, f"epp-{name}", mode, annotations={"epp-client.dev/pick-timeout": pick_timeout}
    )
    add_objects(stack, [pool, *replicated_service(f"epp-{name}", *addresses)], f"{name}.yaml")
    await until(client, stack, name, lambda answer: answer.status_code == 200)


async def health_is(
    client: httpx.AsyncClient, stack: Stack, pool: str, wanted: dict[str, Health]
) -> None:
    """Until `/pools` shows it."""
    url = f"http://{stack.sidecar.admin_address}/pools/default/{pool}"
    async with asyncio.timeout(60):
        while (await client.get(url)).json()["picker"]["health"] != wanted:
            await asyncio.sleep(0.05)


async def test_a_standby_gets_no_request(stack: Stack, client: httpx.AsyncClient) -> None:
    async with replica(stack.endpoints) as leader, replica(stack.endpoints) as standby:
        standby.serving = False
        one, other = leader.address, standby.address
        await add_pool(client, stack, "led", "FailClose", [one, other], "10s")
        answers = [await echo(client, stack, "led") for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert leader.asked >= 20
        assert standby.asked == 0

        leader.serving, standby.serving = False, True
        await health_is(client, stack, "led", {one: Health.NOT_SERVING, other: Health.SERVING})
        before = leader.asked
        answers = [await echo(client, stack, "led") for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert (leader.asked, standby.asked) == (before, 20)

        standby.serving = False
        await health_is(client, stack, "led", {one: Health.NOT_SERVING, other: Health.NOT_SERVING})
        refused = await echo(client, stack, "led")
        assert refused.status_code == 503
        assert refused.headers["x-inference-error"] == "picker_unhealthy"
        assert (leader.asked, standby.asked) == (before, 20)
        families = await metrics(client, stack)
        gauge = "epp_client_picker_addresses"
        assert value(families, gauge, pool="default/led", state="not_serving") == 2


async def test_one_of_two_replicas_is_stopped_and_nobody_notices(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    one, other = [await start_picker(stack, name) for name in ("stopped-0", "stopped-1")]
    await add_pool(client, stack, "stopped", "FailClose", [one, other], "10s")
    await health_is(client, stack, "stopped", {one: Health.SERVING, other: Health.SERVING})
    stack.pickers["stopped-0"].signal(signal.SIGSTOP)
    try:
        answers = await asyncio.gather(*(echo(client, stack, "stopped") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        await health_is(client, stack, "stopped", {one: Health.SILENT, other: Health.SERVING})
        families = await metrics(client, stack)
        assert value(families, "epp_client_picker_retries", pool="default/stopped") > 0
    finally:
        stack.pickers["stopped-0"].signal(signal.SIGCONT)
    await health_is(client, stack, "stopped", {one: Health.SERVING, other: Health.SERVING})


async def test_a_rolling_restart_under_load_loses_nothing(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    names = ("rolled-0", "rolled-1")
    addresses = [await start_picker(stack, name) for name in names]
    await add_pool(client, stack, "rolled", "FailClose", addresses, "10s")
    serving = dict.fromkeys(addresses, Health.SERVING)
    await health_is(client, stack, "rolled", serving)
    async with load(client, stack, "rolled") as answers:
        for killed in (True, False):
            for name, address in zip(names, addresses, strict=True):
                await (stack.pickers[name].kill() if killed else stack.pickers[name].stop())
                await more(answers, 20)
                await start_picker(stack, name, address)
                await health_is(client, stack, "rolled", serving)
    assert Counter(answers) == {"200": len(answers)}
    assert len(answers) > 80


async def test_a_stopped_picker_costs_one_deadline(stack: Stack, client: httpx.AsyncClient) -> None:
    """By counting, not by the clock: who was waiting may time out, nobody after them does."""
    address = await start_picker(stack, "lonely")
    await add_pool(client, stack, "lonely", "FailOpen", [address], "2s")
    await health_is(client, stack, "lonely", {address: Health.SERVING})
    reason = {"pool": "default/lonely", "reason": "picker_unhealthy"}
    async with load(client, stack, "lonely") as answers:
        await more(answers, 20)
        stack.pickers["lonely"].signal(signal.SIGSTOP)
        await more(answers, 200)
    await settled(stack)
    families = await metrics(client, stack)
    labels = {"pool": "default/lonely"}
    late = value(families, "epp_client_fail_open", **labels, reason="picker_timeout")
    early = value(families, "epp_client_fail_open", **reason)
    assert Counter(answers) == {"200": len(answers)}
    assert late <= CLIENTS, "only who waited as it stopped"
    assert early >= 200 - 2 * CLIENTS
    assert value(families, "epp_client_fail_open", **labels) == late + early
    stack.pickers["lonely"].signal(signal.SIGCONT)
    steered = {**labels, "outcome": "steered"}
    before = value(families, "epp_client_requests", **steered)
    # One whose picks have failed is asked again by a request, one that was silent by a health check.
    async with asyncio.timeout(60):
        while value(await metrics(client, stack), "epp_client_requests", **steered) == before:
            await echo(client, stack, "lonely")
            await settled(stack)
    await health_is(client, stack, "lonely", {address: Health.SERVING})


CLIENTS = 6


class load:  # noqa: N801
    """Clients that ask one after the other; what came of it, by status and reason."""

    def __init__(self, client: httpx.AsyncClient, stack: Stack, pool: str) -> None:
        self._client, self._stack, self._pool = client, stack, pool
        self._answers: list[str] = []
        self._over = False

    async def __aenter__(self) -> list[str]:
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(CLIENTS)]
        return self._answers

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _ask(self) -> None:
        body = b"x" * 3000
        digest = hashlib.sha256(body).hexdigest()
        while not self._over:
            answer = await echo(self._client, self._stack, self._pool, body)
            error = answer.headers.get("x-inference-error")
            right = error or answer.json()["sha256"] == digest
            self._answers.append(error or (str(answer.status_code) if right else "another body"))


async def more(answers: list[str], count: int) -> None:
    """Until so many more answers have come."""
    wanted = len(answers) + count
    async with asyncio.timeout(60):
        while len(answers) < wanted:
            await asyncio.sleep(0.02)
