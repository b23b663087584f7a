"""The channel between a control process and a worker."""

import asyncio
import socket

import pytest
import uvloop

from epp_client.metrics.counters import Counters
from epp_client.metrics.decisions import News
from epp_client.workers.channel import Channel, Counted


async def speak(worker: Channel) -> None:
    # the first words may get into the kernel still
    while True:
        await worker.send(Counted(0, Counters(), News([], 0, {}, {})))
        await asyncio.sleep(0)


def test_a_worker_whose_control_process_has_gone_is_told_so_by_an_oserror() -> None:
    async def last_words() -> None:
        ours, theirs = socket.socketpair()
        worker = await Channel.open(ours)
        theirs.close()
        assert await worker.receive() is None
        # the second time, what failed has been closed
        for _ in range(2):
            with pytest.raises(OSError, match=r".+"):
                await speak(worker)
            await asyncio.sleep(0.01)

    uvloop.run(last_words())
