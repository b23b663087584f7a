"""Relay workers behind the real Envoy: what they do together, and what happens when one is gone."""

import asyncio
import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from epp_client.errors import SettingsError
from epp_client.settings import TransportName, serve_settings
from epp_client.sidecar import Sidecar
from epp_client.workers.supervisor import Workers
from testbed.stack import Stack, running_stack
from tests.e2e.tools import split

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ask(client: httpx.AsyncClient, stack: Stack, pool: str = "close") -> int:
    answer = await client.post(stack.pool_url(pool) + "/echo", content=b"hello")
    return answer.status_code


async def metric(client: httpx.AsyncClient, stack: Stack, name: str, **labels: str) -> float:
    text = (await client.get(f"http://{stack.sidecar.admin_address}/metrics")).text
    labels = split(labels)
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def new_pids(workers: Workers, old: list[int]) -> list[int]:
    """The workers' processes once none of `old` is among them and all serve."""
    async with asyncio.timeout(60):
        while set(workers.pids) & set(old) or workers.serving < len(old):
            await asyncio.sleep(0.01)
    return workers.pids


async def until_in_flight(workers: Workers, number: int, pool: str = "default/close") -> None:
    """An exchange is over, and counted, when Envoy has hung up."""
    async with asyncio.timeout(60):
        while (await workers.totals()).pool(pool).in_flight != number:
            await asyncio.sleep(0.01)


async def counted(client: httpx.AsyncClient, stack: Stack, workers: Workers) -> tuple[float, float]:
    """Steered requests, and restarts of workers; once no request is in flight."""
    await until_in_flight(workers, 0)
    steered = await metric(client, stack, "epp_client_requests_total", outcome="steered")
    return steered, await metric(client, stack, "epp_client_worker_restarts_total")


async def test_both_workers_relay_and_their_numbers_add_up(
    stack: Stack, workers: Workers, client: httpx.AsyncClient
) -> None:
    async def numbers() -> tuple[float, float]:
        await until_in_flight(workers, 0)
        name, of = "epp_client_requests_total", {"pool": "default/close"}
        steered = await metric(client, stack, name, outcome="steered", **of)
        return steered, await metric(client, stack, "epp_client_pick_seconds_count", **of)

    before = await numbers()
    answers = await asyncio.gather(*(ask(client, stack) for _ in range(60)))
    assert set(answers) == {200}
    assert await numbers() == (before[0] + 60, before[1] + 60)
    assert await metric(client, stack, "epp_client_workers") == 2
    gauge = "epp_client_picker_addresses"
    assert await metric(client, stack, gauge, pool="default/close", state="serving") == 1
    assert await metric(client, stack, gauge, pool="default/close") == 1, "an address counts once"
    described = await client.get(f"http://{stack.sidecar.admin_address}/pools/default/close")
    assert [*described.json()["picker"]["health"].values()] == ["serving"]
    counts = [
        sum(worker.counters.pool("default/close").outcomes.values())
        for slot in workers._slots
        for worker in slot.processes
    ]
    assert len(counts) == 2
    assert all(counts)


async def test_a_killed_worker_is_replaced_and_counted(
    stack: Stack, workers: Workers, client: httpx.AsyncClient
) -> None:
    before = await counted(client, stack, workers)
    assert await ask(client, stack) == 200
    old = workers.pids
    await until_in_flight(workers, 0)
    os.kill(old[0], signal.SIGKILL)
    os.kill(old[1], signal.SIGKILL)
    await new_pids(workers, old)
    assert {await ask(client, stack) for _ in range(20)} == {200}
    assert await counted(client, stack, workers) == (before[0] + 21, before[1] + 2)
    assert await metric(client, stack, "epp_client_in_flight") == 0


async def test_one_dead_worker_costs_a_retry_and_no_request(
    transport: TransportName, client: httpx.AsyncClient
) -> None:
    async with running_stack(workers=2, transport=transport) as stack:
        workers = stack.sidecar.relay
        assert isinstance(workers, Workers)
        assert await ask(client, stack) == 200
        # nobody takes the dead worker's place
        workers._draining = True
        # for so long that its socket has been given up
        workers._slots[0].adopt(None)
        os.kill(workers.pids[0], signal.SIGKILL)
        async with asyncio.timeout(60):
            while workers.serving == 2:
                await asyncio.sleep(0.01)
        assert {await ask(client, stack) for _ in range(50)} == {200}


async def test_a_hanging_worker_is_killed_and_replaced(
    stack: Stack, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epp_client.workers.process.HUNG_AFTER", 0.5)
    old = workers.pids
    os.kill(old[0], signal.SIGSTOP)
    assert (await new_pids(workers, old[:1]))[0] != old[0]


async def test_replacing_the_workers_under_load_loses_nothing(
    stack: Stack, workers: Workers, client: httpx.AsyncClient
) -> None:
    over = asyncio.Event()
    answers: list[int] = []

    async def load() -> None:
        while not over.is_set():
            answers.append(await ask(client, stack))

    before = await counted(client, stack, workers)
    load_tasks = [asyncio.create_task(load()) for _ in range(8)]
    old = workers.pids
    await stack.sidecar.replace_workers()
    await new_pids(workers, old)
    async with asyncio.timeout(60):
        while any(psutil.pid_exists(pid) for pid in old):
            await asyncio.sleep(0.01)
    over.set()
    await asyncio.gather(*load_tasks)
    assert set(answers) == {200}
    assert await counted(client, stack, workers) == (before[0] + len(answers), before[1])


async def test_edits_reach_the_workers(
    stack: Stack, workers: Workers, client: httpx.AsyncClient
) -> None:
    path = stack.manifests / "all.yaml"
    manifest = path.read_text()
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(manifest))
    kept = [o for o in objects if o["metadata"]["name"] != "nopicker"]
    url = stack.pool_url("nopicker") + "/echo"
    assert (await client.post(url, content=b"x")).status_code == 200
    relayed = 1
    path.write_text(yaml.safe_dump_all(kept))
    # Envoy may lose the cluster before a worker hears of it: then the 503 is Envoy's own.
    async with asyncio.timeout(60):
        while (answer := await client.post(url, content=b"x")).headers.get(
            "x-inference-error"
        ) != "pool_unknown":
            assert answer.status_code in (200, 503)
            relayed += 1
    await until_in_flight(workers, 0, "default/nopicker")
    name = "epp_client_requests_total"
    assert await metric(client, stack, name, pool="default/nopicker") == relayed
    # The last request has been scraped: the pool's numbers are gone everywhere.
    async with asyncio.timeout(60):
        while any("default/nopicker" in worker.counters.pools for worker in processes(workers)):
            await workers.totals()
    assert await metric(client, stack, name, pool="default/nopicker") == 0
    path.write_text(manifest)
    async with asyncio.timeout(60):
        while (await client.post(url, content=b"x")).status_code != 200:
            await asyncio.sleep(0.01)


def processes(workers: Workers) -> list[Any]:
    return [worker for slot in workers._slots for worker in slot.processes]


def worker_processes() -> set[int]:
    """Of this process: the stack of the other tests has some as well."""
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if "epp_client.workers" in child.cmdline()}


async def test_a_socket_that_cannot_be_bound_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "ext-proc-1.sock").write_text("not a socket")
    settings = serve_settings(
        {
            "pools": tmp_path,
            "socket": tmp_path / "ext-proc.sock",
            "xds_socket": None,
            "admin": "127.0.0.1:0",
            "workers": 2,
        }
    )
    sidecar = Sidecar(settings)
    before = worker_processes()
    with pytest.raises(SettingsError, match=r"ext-proc-1\.sock exists and is not a socket"):
        await sidecar.start()
    assert isinstance(sidecar.relay, Workers)
    assert sidecar.relay.serving == 0
    assert worker_processes() <= before
    assert not (tmp_path / "ext-proc-0.sock").exists()


async def test_a_lone_worker_is_back_before_envoy_gives_up(client: httpx.AsyncClient) -> None:
    async with running_stack(workers=1) as stack:
        workers = stack.sidecar.relay
        assert isinstance(workers, Workers)
        assert await ask(client, stack) == 200
        for pid in workers.pids:
            os.kill(pid, signal.SIGKILL)
        assert set(await asyncio.gather(*(ask(client, stack) for _ in range(20)))) == {200}
        assert (await workers.totals()).restarts == 1


@pytest.mark.parametrize("size", [0, 50_000])
async def test_requests_that_wait_for_their_pick_survive_their_worker(
    stack: Stack, workers: Workers, client: httpx.AsyncClient, size: int
) -> None:
    """Envoy asks the other worker, with the body that it has kept: up to 64 KiB."""
    body = os.urandom(size)
    headers = {"x-picker-dialect": "slow", "x-picker-delay-ms": "1500"}

    async def digest() -> tuple[int, str]:
        answer = await client.post(stack.pool_url("close") + "/echo", content=body, headers=headers)
        return answer.status_code, answer.json()["sha256"]

    asked = [asyncio.create_task(digest()) for _ in range(8)]
    await until_in_flight(workers, 8)
    os.kill(workers.pids[0], signal.SIGKILL)
    assert set(await asyncio.gather(*asked)) == {(200, hashlib.sha256(body).hexdigest())}
