"""One whole installation for all end-to-end tests; those that break it start their own."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from epp_client.settings import TransportName
from testbed.stack import Stack, running_stack


@pytest.fixture(scope="session", params=list(TransportName))
def transport(request: pytest.FixtureRequest) -> TransportName:
    """Everything here runs over both."""
    return TransportName(request.param)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(transport: TransportName) -> AsyncIterator[Stack]:
    async with running_stack(transport=transport) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60) as session:
        yield session


@pytest_asyncio.fixture(loop_scope="session")
async def own_stack(transport: TransportName) -> AsyncIterator[Stack]:
    async with running_stack(transport=transport) as running:
        yield running
