"""Predecessor: what the control process before this one has left on the relay's sockets."""

import asyncio
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

import grpc
from grpc import aio

from epp_client.wire.health import CHECK, OVERALL, Said, question, read_answer

PATIENCE = 1.0
"""Seconds for an answer to a health check."""


class Left(IntEnum):
    """What becomes of a request that Envoy sends there; the worse comes first."""

    REFUSING = 0
    """Envoy asks again, for some seconds."""
    KEEPING = 1
    """It waits for whoever accepts it: somebody holds the socket."""
    SERVING = 2
    """Workers that know the pools go on without their control process."""


async def left_on(sockets: Sequence[Path]) -> Left:
    """The worst of them."""
    return min(await asyncio.gather(*map(_left_on, sockets)), default=Left.REFUSING)


async def _left_on(path: Path) -> Left:
    # A pool of connections of its own: grpcio's shared one would remember that nobody was there.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(f"unix:{path.absolute()}", options=options) as channel:
        check = channel.unary_unary(CHECK)
        try:
            said = read_answer(await check(question(OVERALL), timeout=PATIENCE))
        except aio.AioRpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return Left.KEEPING if late else Left.REFUSING
    return Left.SERVING if said is Said.SERVING else Left.REFUSING
