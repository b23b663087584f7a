"""A whole installation whose requests are relayed by two worker processes."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from epp_client.settings import TransportName
from epp_client.workers.supervisor import Workers
from testbed.stack import Stack, running_stack


@pytest.fixture(scope="module", params=list(TransportName))
def transport(request: pytest.FixtureRequest) -> TransportName:
    """Everything here runs over both."""
    return TransportName(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName) -> AsyncIterator[Stack]:
    """The tests of a module share it: a worker that they end is replaced."""
    async with running_stack(workers=2, transport=transport) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def workers(stack: Stack) -> Workers:
    """Both serve, whatever the test before has done."""
    workers = stack.sidecar.relay
    assert isinstance(workers, Workers)
    async with asyncio.timeout(60):
        while workers.serving < 2:
            await asyncio.sleep(0.01)
    return workers


@pytest_asyncio.fixture(loop_scope="session")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60) as session:
        yield session
