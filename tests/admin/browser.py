"""A headless Chromium, driven over its own debugging protocol: no driver, no other browser library."""

import asyncio
import atexit
import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE = 60.0
"""Seconds for anything that a page is waited for."""


class Page:
    """One open page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=PATIENCE)
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        got = await self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(PATIENCE):
            while not await self.run(script):
                await asyncio.sleep(0.05)

    async def picture(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """A screenshot."""
        await self.ask(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        got = await self.ask("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(got["data"]))


class _Running:
    """One Chromium for all tests of this process: it takes seconds to start. Each test has a tab."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._profile = Path(tempfile.mkdtemp(prefix="chromium-"))
        self._process = subprocess.Popen(
            (
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0"),
                *(f"--user-data-dir={self._profile}", "about:blank"),
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self._end)

    async def address(self) -> str:
        """Where it is driven from."""
        told = self._profile / "DevToolsActivePort"
        async with asyncio.timeout(PATIENCE):
            while not told.exists() or len(told.read_text().splitlines()) < 2:
                assert self._process.poll() is None, "chromium did not start"
                await asyncio.sleep(0.05)
        return f"http://127.0.0.1:{told.read_text().splitlines()[0]}"

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)


@cache
def _running() -> _Running:
    return _Running()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Page]:
    """The page at `url` in a tab; skips the test where no Chromium is installed."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH to draw the page with")
    host = await _running().address()
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{host}/json/new?about:blank") as answer:
            target = json.loads(await answer.text())
        socket = await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=64 * 2**20)
        try:
            page = Page(socket)
            await page.ask("Page.navigate", url=url)
            yield page
        finally:
            await socket.close()
            async with session.get(f"{host}/json/close/{target['id']}"):
                pass
