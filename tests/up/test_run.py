"""What `up` waits for, with processes and admin pages that do what a busy machine's do."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from epp_client.up import admin, run
from epp_client.up.admin import Served
from epp_client.up.run import Gateway, Plan
from epp_client.up.supervision import Part

pytestmark = pytest.mark.timeout(30)
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
ROW = {
    "namespace": "default",
    "name": "llama",
    "requestMode": "relay",
    "responseMode": "relay",
    "appProtocol": "http",
    "ready": 2,
}


class Admin:
    """The admin pages of the sidecar and of Envoy. A test sets what they answer."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ready.set()
        """The sidecar does not answer before."""
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        """Each question for `/readyz` or `/summary`, as it arrives."""
        self.summaries = 0
        self.tried_after = 0
        """So many answers say that the picker has not been tried."""

    async def readyz(self, _: web.Request) -> web.Response:
        self.asked.put_nowait("/readyz")
        await self.ready.wait()
        return web.Response(text="ok\n")

    async def summary(self, _: web.Request) -> web.Response:
        self.summaries += 1
        self.asked.put_nowait("/summary")
        state = "untried" if self.summaries <= self.tried_after else "serving"
        picker = {"addresses": 1, "health": {state: 1}, "problem": ""}
        return web.json_response({"pools": {"total": 1, "rows": [{**ROW, "picker": picker}]}})

    async def fine(self, _: web.Request) -> web.Response:
        return web.Response(text="LIVE\n")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/summary", self.summary)
        for path in ("/ready", "/livez", "/stats"):
            app.router.add_get(path, self.fine)
        for path in ("/healthcheck/fail", "/drain_listeners"):
            app.router.add_post(path, self.fine)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield f"{host}:{port}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def gateway(pages: Admin, folder: Path) -> AsyncIterator["asyncio.Queue[Served]"]:
    """A gateway of two processes that do nothing. Yields what it announces."""
    announced: asyncio.Queue[Served] = asyncio.Queue()
    async with pages.listening() as address:
        plan = Plan(
            commands={Part.SIDECAR: SLEEP, Part.ENVOY: SLEEP},
            bootstrap=folder / "envoy.yaml",
            render=lambda _: "",
            warm_up=lambda: None,
            announce=announced.put_nowait,
            sidecar_admin=address,
            envoy_admin=address,
            drain_timeout=0.1,
        )
        running = asyncio.create_task(Gateway(plan).run())
        try:
            yield announced
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            assert await running == 0


async def test_the_gateway_is_announced_once_its_picker_has_been_tried(tmp_path: Path) -> None:
    """Envoy may be ready before a relay worker has asked the picker."""
    pages = Admin()
    pages.tried_after = 3
    async with gateway(pages, tmp_path) as announced:
        served = await announced.get()
    assert [pool.picker for pool in served.pools] == ["picker: 1 serving"]
    assert pages.summaries == 4


async def test_a_picker_that_is_not_tried_in_time_is_announced_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "TRIED_PATIENCE", 0.3)
    pages = Admin()
    pages.tried_after = sys.maxsize
    async with gateway(pages, tmp_path) as announced:
        served = await announced.get()
    assert [pool.picker for pool in served.pools] == ["picker: 1 untried"]


async def test_a_gateway_that_drains_is_not_announced(tmp_path: Path) -> None:
    pages = Admin()
    pages.tried_after = sys.maxsize
    async with gateway(pages, tmp_path) as announced:
        while pages.summaries < 3:
            await pages.asked.get()
    assert announced.empty()


async def test_a_sidecar_that_does_not_answer_in_time_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty reason would count as ready. The text of a TimeoutError is empty."""
    monkeypatch.setattr(admin, "TIMEOUT", 0.1)
    pages = Admin()
    pages.ready.clear()
    async with gateway(pages, tmp_path) as announced:
        assert [await pages.asked.get() for _ in range(3)] == 3 * ["/readyz"]
        assert pages.summaries == 0
        pages.ready.set()
        await announced.get()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            {"status": 503, "text": "pools: the pools have not been read yet\nserving: starting\n"},
            "pools: the pools have not been read yet; serving: starting",
        ),
        ({"status": 503}, "/readyz answers 503"),
        ({"status": 200, "text": "ok\n"}, ""),
    ],
)
async def test_why_the_sidecar_is_not_ready(
    answer: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = Admin()

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(**answer)

    monkeypatch.setattr(pages, "readyz", readyz)
    async with pages.listening() as address:
        assert await admin.unready(address) == reason
