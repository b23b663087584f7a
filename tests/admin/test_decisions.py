"""`/decisions` and `/status` of the admin page, asked by a real HTTP client over loopback."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.admin.fleet import Fleet
from tests.terminal.pages import page


async def lines(answer: aiohttp.ClientResponse, count: int) -> list[Any]:
    """The next lines that are no signs of life."""
    found: list[Any] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            if line := (await answer.content.readline()).strip():
                found.append(json.loads(line))
    return found


@pytest.mark.parametrize("pool", ["", "team-0/model-000"])
async def test_the_last_ones_come_first_and_then_each_new_one(pool: str) -> None:
    async with page(Fleet(3)) as address, aiohttp.ClientSession(f"http://{address}") as client:
        query = {"pool": pool} if pool else {}
        async with asyncio.timeout(30):
            while True:
                answer = await client.get("/decisions", params=query)
                kept = (await answer.json())["decisions"]
                if len(kept) >= 4:
                    break
                await asyncio.sleep(0.2)
        two = await (await client.get("/decisions", params={**query, "last": "2"})).json()
        assert len(two["decisions"]) == 2
        none = await (await client.get("/decisions", params={**query, "last": "0"})).json()
        assert none["decisions"] == []
        async with client.get("/decisions", params={**query, "follow": "1", "last": "3"}) as answer:
            # A sign of life, before anything falls.
            assert await answer.content.readline() == b"\n"
            followed = await lines(answer, 6)
        numbers = [one["number"] for one in followed]
        assert numbers == sorted(set(numbers))
        # The last three, or newer ones.
        assert numbers[2] >= two["decisions"][-1]["number"]
        if pool:
            assert {one["pool"] for one in followed} == {pool}


@pytest.mark.parametrize("path", ["/decisions?last=x", "/decisions?last=-1", "/live?limit=12345"])
async def test_a_number_that_is_none_is_named(path: str) -> None:
    async with page(Fleet(1)) as address, aiohttp.ClientSession(f"http://{address}") as client:
        answer = await client.get(path)
        assert answer.status == 400
        assert "is not a number from 0 to 9999" in await answer.text()


async def test_the_minute_says_how_much_it_covers_and_what_was_steered() -> None:
    async with page(Fleet(2)) as address, aiohttp.ClientSession(f"http://{address}") as client:
        async with asyncio.timeout(30):
            while True:
                said = await (await client.get("/status")).json()
                if said.get("minuteSeconds") and said["minute"]["requests"]:
                    break
                await asyncio.sleep(0.2)
        assert 0 < said["minuteSeconds"] < 70
        assert said["minute"]["steered"] == said["minute"]["requests"]
        assert said["at"] > 1_700_000_000
