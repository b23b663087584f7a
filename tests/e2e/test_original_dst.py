"""The upstream mode for Envoys that take no xDS from us: one address, no retries."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from epp_client.settings import TransportName, UpstreamMode
from testbed import yaml_text
from testbed.stack import DEAD_HOST, Stack, running_stack
from tests.e2e.test_dialects import (
    BROKEN,
    POOLS,
    SIZES,
    WORKING,
    payload,
    size_in_turn,
    steered,
)
from tests.e2e.tools import echo, metrics, settled, value

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName) -> AsyncIterator[Stack]:
    settings: dict[str, Any] = {"upstream_mode": UpstreamMode.ORIGINAL_DST, "xds_socket": None}
    # Without retries a Pod that is dead costs its requests: here there is none.
    settings["write"] = lambda objects: yaml_text.write_all(
        [item for item in objects if item.get("status", {}).get("podIP") != DEAD_HOST]
    )
    async with running_stack(transport=transport, **settings) as running:
        yield running


def next_size(size: int) -> int:
    """Another one than in `test_dialects`."""
    return SIZES[(SIZES.index(size) + 2) % len(SIZES)]


def sizes_of(dialect: str, pool: str, transport: TransportName) -> set[int]:
    """Those of both modes."""
    size = size_in_turn(transport, dialect, pool)
    return {size, next_size(size)}


async def test_each_dialect_meets_each_size_in_each_pool_and_over_each_transport() -> None:
    for dialect in (*WORKING, *BROKEN):
        for pool in POOLS:
            met = set[int]().union(*(sizes_of(dialect, pool, one) for one in TransportName))
            assert met == {*SIZES}
        for transport in TransportName:
            met = set[int]().union(*(sizes_of(dialect, pool, transport) for pool in POOLS))
            assert met == {*SIZES}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dialect", WORKING)
async def test_a_working_dialect_steers_with_the_body_whole(
    stack: Stack, client: httpx.AsyncClient, transport: TransportName, dialect: str, pool: str
) -> None:
    size = next_size(size_in_turn(transport, dialect, pool))
    answer = await steered(stack, client, dialect, pool, size)
    assert answer.headers["x-http-version"] == ("2" if pool == "h2c" else "1.1")


async def test_the_served_endpoint_is_the_upstream_address(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    answer = await echo(client, stack, "close")
    served = answer.headers["x-conformance-test-served-endpoint"]
    assert served == answer.headers["x-model-server"]


async def test_of_an_ordered_list_the_first_is_used(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """Envoy's original_dst takes one address, and answers 503 to a list."""
    picks = f"{stack.endpoints[2]},{stack.endpoints[0]}"
    answer = await echo(client, stack, "close", x_picker_dialect="pick-list", x_picker_list=picks)
    assert answer.headers["x-model-server"] == stack.endpoints[2]


@pytest.mark.parametrize("dialect", BROKEN)
async def test_fail_open_loses_nothing(
    stack: Stack, client: httpx.AsyncClient, transport: TransportName, dialect: str
) -> None:
    body = payload(next_size(size_in_turn(transport, dialect)))
    answer = await echo(client, stack, "open", body, x_picker_dialect=dialect)
    assert answer.status_code == 200
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()


async def test_a_pick_outside_the_pool_is_refused(stack: Stack, client: httpx.AsyncClient) -> None:
    """Here nothing else would stop it: Envoy dials what the metadata says."""
    answer = await echo(client, stack, "close", x_picker_dialect="pick-outside")
    assert answer.headers["x-inference-error"] == "pick_outside_pool"
    await settled(stack)
    families = await metrics(client, stack)
    assert value(families, "epp_client_refused", pool="default/close") == 1
