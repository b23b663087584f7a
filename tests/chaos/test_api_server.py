"""The API server that chaos kills: what it was told outlives it, and what it has forgotten it says."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chaos.source import ApiServer
from testbed.stack import pod


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiServer]:
    server = ApiServer(tmp_path, 0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def pods(api: ApiServer) -> tuple[int, dict[str, str]]:
    """What the sidecar would see: the list's version, and each Pod's readiness."""
    page: dict[str, Any] = json.loads(await get(api, "/api/v1/pods"))
    found = {
        item["metadata"]["name"]: item["status"]["conditions"][0]["status"]
        for item in page["items"]
    }
    return int(page["metadata"]["resourceVersion"]), found


async def get(api: ApiServer, path: str) -> str:
    url = f"http://{api.link.address}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def restarted(api: ApiServer) -> None:
    await api.kill()
    await api.start_process()


async def test_what_it_was_told_outlives_it(api: ApiServer) -> None:
    await api.write([pod("a", "10.0.0.1"), pod("b", "10.0.0.2")])
    await api.write([pod("a", "10.0.0.1", ready=False), pod("c", "10.0.0.3")])
    before = await pods(api)
    assert before[1] == {"a": "False", "c": "True"}
    assert api.ready_pods == {"c"}
    await restarted(api)
    await api.connect()
    assert await pods(api) == before


async def test_pods_can_change_before_the_sidecar_reaches_it_again(api: ApiServer) -> None:
    await api.write([pod("a", "10.0.0.1")])
    version, _ = await pods(api)
    await restarted(api)
    await api.write([pod("b", "10.0.0.2")])
    with pytest.raises(aiohttp.ClientError):
        await pods(api)
    await api.connect()
    later, found = await pods(api)
    assert later > version
    assert found == {"b": "True"}


async def test_what_is_forgotten_stays_so_after_a_restart(api: ApiServer) -> None:
    await api.write([pod("a", "10.0.0.1")])
    version, _ = await pods(api)
    watch = f"/api/v1/pods?watch=1&timeoutSeconds=1&resourceVersion={version}"
    assert '"code": 410' not in (await get(api, watch)).replace('":', '": ')
    api.process.signal(signal.SIGUSR1)
    for _ in range(2):
        said = json.loads((await get(api, watch)).splitlines()[0])
        assert (said["type"], said["object"]["code"]) == ("ERROR", 410)
        await restarted(api)
        await api.connect()
    await api.write([])
    assert (await pods(api))[0] > version
