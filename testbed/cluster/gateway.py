"""The programs under test as processes: `epp-client serve --kubernetes` and the real Envoy."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from epp_client.envoy.bootstrap import envoy_config
from epp_client.pool.inference_pool import PoolName
from testbed.envoy import Envoy, running_envoy
from testbed.ports import free_ports
from testbed.process import Process

HOST = "127.0.0.21"
READY_TIMEOUT = 40.0
"""Seconds to wait for a start or a change, on a busy machine."""
MODEL_HOSTS = ("127.0.0.31", "127.0.0.32", "127.0.0.33")


@dataclass
class Sidecar:
    """A running `epp-client serve`."""

    process: Process
    admin: str
    """`http://host:port` of its admin page."""

    async def page(self, path: str) -> tuple[int, str]:
        """A page of the admin address: its status and text."""
        async with aiohttp.ClientSession() as session, session.get(self.admin + path) as answer:
            return answer.status, await answer.text()

    async def pool(self, name: str) -> dict[str, Any] | None:
        """The page of a pool, named `namespace/name`."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.admin}/pools/{name}") as answer,
        ):
            return await answer.json() if answer.status == 200 else None

    async def until_ready(self) -> None:
        """Wait until `/readyz` answers with 200.

        Raises:
            ProcessFailed: it ended or did not become ready; the text has its log.
        """
        said = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_TIMEOUT):
                while self.process.running:
                    with contextlib.suppress(aiohttp.ClientError):
                        status, said = await self.page("/readyz")
                        if status == 200:
                            return
                    await asyncio.sleep(0.05)
        raise self.process.failed(f"did not become ready: {said}")

    async def until_fresh(self) -> None:
        """Wait until `/readyz` does not mention a stale state."""
        async with asyncio.timeout(READY_TIMEOUT):
            while "stale" in (await self.page("/readyz"))[1]:
                await asyncio.sleep(0.05)

    async def until(self, path: str, text: str, *, status: int | None = None) -> str:
        """Wait until a page has `text` (and `status`); returns the page."""
        page = ""
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                while True:
                    code, page = await self.page(path)
                    if text in page and status in (None, code):
                        return page
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise AssertionError(f"no {text!r} in {page}") from error


@dataclass
class Gateway:
    """A sidecar and its Envoy."""

    sidecar: Sidecar
    envoy: Envoy
    url: str

    def pool_url(self, name: str) -> str:
        """The URL for clients of a pool, named `namespace/name`."""
        return f"{self.url}/{name}"


@asynccontextmanager
async def running_sidecar(
    folder: Path, kubeconfig: Path, *arguments: str, wait: bool = True
) -> AsyncIterator[Sidecar]:
    """Run the sidecar with its sockets in `folder`, and wait until it is ready.

    Raises:
        ProcessFailed: it did not become ready; the text has the end of its log.
    """
    (port,) = free_ports(1)
    process = await Process.start(
        sys.executable, "-m", "epp_client", "serve", "--kubernetes",
        "--kubeconfig", str(kubeconfig), "--admin", f"{HOST}:{port}",
        "--socket", str(folder / "ext-proc.sock"), "--xds-socket", str(folder / "xds.sock"),
        *arguments,
    )  # fmt: skip
    sidecar = Sidecar(process, f"http://{HOST}:{port}")
    try:
        if wait:
            await sidecar.until_ready()
        yield sidecar
    finally:
        await process.stop(5)


@asynccontextmanager
async def running_gateway(
    folder: Path, kubeconfig: Path, pools: Sequence[str], *arguments: str
) -> AsyncIterator[Gateway]:
    """The sidecar and an Envoy with a route `/<namespace>/<name>/` for each of `pools`."""
    async with AsyncExitStack() as owner:
        sidecar = await owner.enter_async_context(running_sidecar(folder, kubeconfig, *arguments))
        port, admin = free_ports(2)
        names = [PoolName(*name.split("/")) for name in (*pools, "unused/unused")]
        bootstrap = envoy_config(
            # At least two pools, as a single one would be served at `/`.
            names,
            listener=(HOST, port),
            admin=(HOST, admin),
            ext_proc_sockets=[folder / "ext-proc.sock"],
            ads_socket=folder / "xds.sock",
            access_log=False,
        )
        envoy = await owner.enter_async_context(running_envoy(bootstrap, (HOST, admin)))
        yield Gateway(sidecar, envoy, f"http://{HOST}:{port}")


@dataclass
class Models:
    """Model servers: one process per host and port."""

    ports: tuple[int, int]
    """Ports of every host."""

    def endpoints(self, port: int) -> tuple[str, ...]:
        """`ip:port` of all hosts."""
        return tuple(f"{host}:{port}" for host in MODEL_HOSTS)


@asynccontextmanager
async def running_models() -> AsyncIterator[Models]:
    """Run them."""
    async with AsyncExitStack() as owner:
        ports: list[int] = []
        for index in range(2):
            for host in MODEL_HOSTS:
                port = ports[index] if len(ports) > index else 0
                process, ready = await Process.python(
                    "testbed.model_server", "--listen", f"{host}:{port}"
                )
                owner.push_async_callback(process.stop, 1)
                if len(ports) == index:
                    ports.append(int(ready["address"].rpartition(":")[2]))
        yield Models((ports[0], ports[1]))
