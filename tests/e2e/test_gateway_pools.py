"""Pools behind a Gateway's routes: the real Envoy, the sidecar and its pickers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from epp_client.gateway.table import Backend, Forward, HeaderChange, Host, PathChange
from epp_client.pool.inference_pool import PoolName
from testbed.stack import Stack, running_stack

from .gateways import ECHO, RunningGateway, entry, running_gateway
from .h2_peer import Peer
from .tools import routable

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPEN, CLOSE, SKIP, UNKNOWN = (PoolName("default", n) for n in ("open", "close", "skip", "unknown"))
AT_ROOT = PathChange("/", whole=False)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    async with running_stack() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(stack: Stack) -> AsyncIterator[RunningGateway]:
    sidecar = stack.sidecar
    async with running_gateway(sidecar.store, sidecar.settings.sockets) as running:
        yield running
