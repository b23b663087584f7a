"""A picker that lies for one pool of several is named everywhere, and the kept demo shows its faults."""

import asyncio

import httpx

from testbed.incident import incident
from testbed.stack import running_stack
from testbed.traffic import FAULTS, Traffic, faults
from tests.e2e.tools import echo


def steered(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and "x-inference-fallback" not in answer.headers


async def test_every_place_names_the_pool_whose_picker_lies() -> None:
    found = await incident(alerts=False)
    assert set(found) == {"log", "tap", "page", "status"}
    assert None not in found.values(), found


async def test_the_kept_demo_has_every_fault_and_mends_it() -> None:
    said: list[str] = []
    cycle = asyncio.Event()

    async def sleep(seconds: float) -> None:
        """The first pause of the second round means that all faults are mended."""
        if seconds and said.count("mended") == len(FAULTS):
            cycle.set()
            await asyncio.Event().wait()
        await asyncio.sleep(1.0)

    async with running_stack() as stack, httpx.AsyncClient(timeout=60) as client:
        traffic = Traffic(stack, client)
        running = [
            asyncio.create_task(traffic.run()),
            asyncio.create_task(faults(stack, traffic, said.append, sleep=sleep)),
        ]
        async with asyncio.timeout(100):
            await cycle.wait()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert len(said) == 2 * len(FAULTS)
        async with asyncio.timeout(60):
            for pool in ("open", "close", "h2c"):
                while not steered(await echo(client, stack, pool)):
                    await asyncio.sleep(0.1)
        address = f"http://{stack.sidecar.admin_address}"
        shown = (await client.get(f"{address}/decisions", params={"failed": "1"})).json()
        assert {"pick_outside_pool"} <= {one.get("reason") for one in shown["decisions"]}
