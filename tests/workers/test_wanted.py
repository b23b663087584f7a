"""A pick that waits for an endpoint is heard of in the control process, through a real worker's channel."""

import asyncio
import socket
from pathlib import Path

import pytest

from epp_client.settings import serve_settings
from epp_client.workers.channel import Channel, Configure, Wanted
from epp_client.workers.worker import Worker


@pytest.mark.asyncio
async def test_a_thousand_picks_that_wait_ask_once(tmp_path: Path) -> None:
    settings = serve_settings({"pools": tmp_path, "socket": tmp_path / "s", "admin": "127.0.0.1:0"})
    ours, theirs = socket.socketpair()
    control, channel = await Channel.open(ours), await Channel.open(theirs)
    worker = Worker(channel, Configure(0, settings, False, None))
    for _ in range(1000):
        worker._want("default/llama")
    worker._want("default/other")
    async with asyncio.timeout(60):
        said = await control.receive()
        assert isinstance(said, Wanted)
        assert set(said.pools) == {"default/llama", "default/other"}
        assert worker._asking is not None
        # there was nothing more to say
        await worker._asking
        worker._want("default/llama")
        assert await control.receive() == Wanted(("default/llama",))
        await worker._asking
    await worker._plane.close()
    control.close()
    channel.close()
