"""A whole installation whose requests are relayed by two worker processes."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from epp_client.settings import TransportName
from epp_client.workers.supervisor import Workers
from testbed.stack import Stack, running_stack


@pytest_asyncio.fixture(loop_scope="session", params=list(TransportName))
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    async with running_stack(workers=2, transport=request.param) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def workers(stack: Stack) -> Workers:
    assert isinstance(stack.sidecar.relay, Workers)
    return stack.sidecar.relay


@pytest_asyncio.fixture(loop_scope="session")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60) as session:
        yield session
