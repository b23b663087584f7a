"""Pools without Kubernetes objects behind the real Envoy: a file is edited, a model server dies."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from epp_client.envoy.bootstrap import envoy_config
from epp_client.pool.inference_pool import PoolName
from epp_client.settings import serve_settings
from epp_client.sidecar import Sidecar, running
from testbed.envoy import running_envoy
from testbed.ports import free_ports
from testbed.process import Process
from testbed.stack import ENVOY_HOST, HOSTS


@dataclass
class Installation:
    """A sidecar with a file of endpoints, its picker and two model servers."""

    url: str
    file: Path
    models: dict[str, Process]
    sidecar: Sidecar
    client: httpx.AsyncClient

    def edit(self, *endpoints: str) -> None:
        """Replace the file, by renaming, as editors do."""
        write(self.file, *endpoints)

    async def ask(self, endpoint: str) -> httpx.Response:
        """A request that the picker sends to this endpoint."""
        headers = {"test-epp-endpoint-selection": endpoint}
        return await self.client.post(f"{self.url}/echo", content=b"hello", headers=headers)

    async def until(self, endpoint: str, seen: Callable[[httpx.Response], bool]) -> httpx.Response:
        """Ask until an answer shows the change."""
        for _ in range(2000):
            if seen(answer := await self.ask(endpoint)):
                return answer
        raise AssertionError(f"{answer.status_code} {dict(answer.headers)}")


def write(file: Path, *endpoints: str) -> None:
    lines = ["endpoints:"]
    for index, key in enumerate(endpoints):
        host, _, port = key.rpartition(":")
        lines.append(f"- {{name: m{index}, address: {host}, port: '{port}'}}")
    new = file.with_suffix(".new")
    new.write_text("\n".join(lines))
    new.rename(file)


@contextlib.asynccontextmanager
async def installed(
    folder: Path, listed: Callable[[list[str]], list[str]], **endpoints: Any
) -> AsyncIterator[Installation]:
    """Everything on loopback. `listed` says which model servers the file has at first."""
    async with AsyncExitStack() as owner:
        models: dict[str, Process] = {}
        for host in HOSTS[:2]:
            process, ready = await Process.python(
                "testbed.model_server", "--listen", f"{host}:{free_ports(1)[0]}"
            )
            owner.push_async_callback(process.stop, 1)
            models[ready["address"]] = process
        picker, ready = await Process.python(
            "testbed.picker", "--listen", "127.0.0.1:0", "--endpoints", ",".join(models)
        )
        owner.push_async_callback(picker.stop, 1)
        file = folder / "endpoints.yaml"
        write(file, *listed([*models]))
        settings = serve_settings(
            {
                "endpoints": {"endpoints": file, "picker": ready["address"], **endpoints},
                "socket": folder / "ext-proc.sock",
                "xds_socket": folder / "xds.sock",
                "admin": "127.0.0.1:0",
                "workers": 0,
                "pool_defaults": {"tls": {"mode": "plaintext"}, "drain_grace": 0.2},
            }
        )
        sidecar = await owner.enter_async_context(running(settings))
        listener, admin = [(ENVOY_HOST, port) for port in free_ports(2)]
        bootstrap = envoy_config(
            [PoolName("default", "default")],
            listener=listener,
            admin=admin,
            ext_proc_sockets=settings.sockets,
            ads_socket=settings.xds_socket,
            access_log=False,
        )
        await owner.enter_async_context(running_envoy(bootstrap, admin))
        client = await owner.enter_async_context(httpx.AsyncClient(timeout=20))
        url = f"http://{ENVOY_HOST}:{listener[1]}"
        yield Installation(url, file, models, sidecar, client)


async def test_an_edit_moves_traffic(tmp_path: Path) -> None:
    async with installed(tmp_path, lambda models: models[:1]) as here:
        first, second = here.models
        assert (await here.ask(first)).headers["x-model-server"] == first
        refused = await here.ask(second)
        assert refused.status_code == 503
        assert refused.headers["x-inference-error"] == "pick_outside_pool"
        here.edit(second)
        answer = await here.until(second, lambda answer: answer.status_code == 200)
        assert answer.headers["x-model-server"] == second
        # The first one drains, and is then no member any more.
        refused = await here.until(first, lambda answer: answer.status_code == 503)
        assert refused.headers["x-inference-error"] == "pick_outside_pool"
        here.file.write_text("endpoints: [")
        for _ in range(20):
            assert (await here.ask(second)).headers["x-model-server"] == second


@pytest.mark.parametrize("check", [{}, {"health_check": "http:/health"}], ids=["default", "http"])
async def test_a_dead_endpoint_is_unhealthy_until_it_is_back(
    tmp_path: Path, check: dict[str, str]
) -> None:
    settings = {
        **check,
        "health_check_interval": 0.05,
        "unhealthy_threshold": 2,
        "failure_mode": "FailOpen",
    }
    async with installed(tmp_path, lambda models: models, **settings) as here:
        first, second = here.models
        assert (await here.ask(first)).headers["x-model-server"] == first
        await here.models[first].kill()
        answer = await here.until(
            first, lambda answer: answer.headers.get("x-inference-fallback") == "pick_outside_pool"
        )
        assert answer.headers["x-model-server"] == second
        pools = (await here.client.get(f"http://{here.sidecar.admin_address}/pools")).json()
        [pool] = pools["pools"]
        assert [one["endpoint"] for one in pool["endpoints"]] == [second]
        assert pool["problems"] == [
            f"InferencePool default/default endpoint {first}: is not ready: connection refused"
        ]
        back, _ = await Process.python("testbed.model_server", "--listen", first)
        try:
            answer = await here.until(
                first, lambda answer: answer.headers.get("x-model-server") == first
            )
            assert "x-inference-fallback" not in answer.headers
        finally:
            await back.stop(1)
