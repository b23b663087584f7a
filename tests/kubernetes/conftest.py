"""`api_server`: the double, or the real one that EPP_CLIENT_TEST_KUBECONFIG names."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from epp_client.kubernetes.client.access import Access
from epp_client.kubernetes.client.api import KubernetesApi
from testbed.kubernetes.double import ADMIN, running
from tests.kubernetes.client import ApiServer, connect, delete_namespace, make_namespace

REAL = "EPP_CLIENT_TEST_KUBECONFIG"


@pytest.fixture
async def api_server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An API server with an empty namespace of the test's own."""
    namespace = f"test-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        if real := os.environ.get(REAL):
            server = await connect(Path(real), namespace, None)
        else:
            double = await stack.enter_async_context(running())
            admin = double.kubeconfig(tmp_path / "admin", ADMIN)
            server = await connect(admin, namespace, double)
            server.kubeconfig = double.kubeconfig(tmp_path / "kubeconfig")
        stack.push_async_callback(server.client.close)
        await make_namespace(server)
        try:
            yield server
        finally:
            await delete_namespace(server)


@pytest.fixture
async def api(api_server: ApiServer) -> AsyncIterator[KubernetesApi]:
    """Our client of that server."""
    api = KubernetesApi(Access(api_server.kubeconfig))
    await api.open()
    try:
        yield api
    finally:
        await api.close()
