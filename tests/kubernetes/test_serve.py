"""`epp-client serve --kubernetes`, as a process, over the API server."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from epp_client.errors import SettingsError
from epp_client.kubernetes.client.resources import ENDPOINT_SLICE, INFERENCE_POOL, SERVICE
from epp_client.settings import serve_settings
from testbed.ports import free_ports
from tests.kubernetes.client import ApiServer
from tests.kubernetes.manifests import endpoint_slice, inference_pool, service


@asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[str]:
    """A sidecar; the URL of its admin page."""
    [port] = free_ports(1)
    arguments = [sys.executable, "-m", "epp_client", "serve", "--workers", "0", *options]
    arguments += ["--socket", str(folder / "e.sock"), "--xds-socket", str(folder / "x.sock")]
    process = await asyncio.create_subprocess_exec(
        *arguments, "--admin", f"127.0.0.1:{port}", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            assert await process.wait() == 0


async def page(admin: str, path: str, wanted: str) -> str:
    """The page, once `wanted` is on it."""
    async with asyncio.timeout(60), aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(admin + path) as answer:
                    text = f"{answer.status} {await answer.text()}"
            except aiohttp.ClientError:
                text = ""
            if wanted in text:
                return text
            await asyncio.sleep(0.05)


def _count(metrics: str, sample: str) -> float:
    start = f"epp_client_api_{sample} "
    return next(
        float(line[len(start) :]) for line in metrics.splitlines() if line.startswith(start)
    )


async def test_serve_follows_the_cluster_and_says_when_it_is_stale(
    api_server: ApiServer, tmp_path: Path
) -> None:
    double, namespace = api_server.double, api_server.namespace
    await api_server.create(SERVICE, service())
    await api_server.create(ENDPOINT_SLICE, endpoint_slice("picker", "10.1.0.1"))
    await api_server.create(INFERENCE_POOL, inference_pool("llama"))
    await api_server.pod("llama-1", {"app": "llama"}, "10.0.0.1")
    double.forbidden.add(("list", "pods"))
    options = ["--kubernetes", "--kubeconfig", str(api_server.kubeconfig), "--namespace", namespace]
    async with serving(tmp_path, *options) as admin:
        assert (await page(admin, "/readyz", 'RBAC verb "list" on "pods"')).startswith("503 ")
        double.forbidden.clear()
        assert await page(admin, "/readyz", "ok") == "200 ok\n"
        assert '"10.0.0.1:8000"' in await page(admin, "/pools", "llama")
        metrics = await page(admin, "/metrics", "api_stale")
        assert "epp_client_api_stale_seconds 0.0" in metrics
        for sample in ('requests_total{verb="list"}', 'requests_total{verb="watch"}'):
            assert _count(metrics, sample) >= 4, "pools, Pods, Service and slices"
        assert _count(metrics, 'faults_total{fault="forbidden"}') >= 1
        double.outage()
        assert (await page(admin, "/readyz", "stale")).startswith("200 ok\nkubernetes: stale for ")
        await page(admin, "/metrics", 'epp_client_api_faults_total{fault="unreachable"')
        assert '"10.0.0.1:8000"' in await page(admin, "/pools", "llama")
        await api_server.pod("llama-2", {"app": "llama"}, "10.0.0.2")
        double.mend()
        await page(admin, "/pools", '"10.0.0.2:8000"')
        assert _count(await page(admin, "/metrics", "api_events"), "events_total") >= 1
        while "stale" in await page(admin, "/readyz", "200"):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "exactly one source of pools"),
        ({"pools": ".", "kubernetes": {}}, "exactly one source of pools"),
        ({"kubernetes": {"named_pools": ("llama",)}}, r"kubernetes\.named_pools\.0: .*'llama'"),
    ],
)
def test_settings_that_do_not_go_together_are_said(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        serve_settings(values)


async def test_a_scope_without_kubernetes_is_an_error() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "epp_client", "serve", "--pools", ".", "--namespace", "a"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert "--namespace" in errors.decode()
    assert "needs --kubernetes" in errors.decode()
