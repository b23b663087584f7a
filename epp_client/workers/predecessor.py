"""Predecessor: who serves on the relay's sockets before we do, and what endpoints they know."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import IntEnum
from pathlib import Path

import grpc
from grpc import aio

from epp_client.data_plane.handover import KNOWN_ENDPOINTS
from epp_client.pool.known import Known, read_known
from epp_client.wire.health import CHECK, OVERALL, ServingStatus, check_request, read_answer

PATIENCE = 1.0
"""Seconds for an answer to a health check."""
_LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes: three million endpoints."""


class Left(IntEnum):
    """What becomes of a request that Envoy sends there; the worse comes first."""

    REFUSING = 0
    """Envoy asks again, for some seconds."""
    KEEPING = 1
    """It waits for whoever accepts it: somebody holds the socket."""
    SERVING = 2
    """Workers that know the pools go on without their control process."""


async def left_on(sockets: Sequence[Path], claimed: bool = False) -> Left:
    """The worst of them, given whether others beside them are `claimed`: those keep requests."""
    left = await asyncio.gather(*map(_left_on, sockets))
    return min([*left, *[Left.KEEPING] * claimed], default=Left.REFUSING)


async def _left_on(path: Path) -> Left:
    async with _channel(path) as channel:
        check = channel.unary_unary(CHECK)
        try:
            said = read_answer(await check(check_request(OVERALL), timeout=PATIENCE))
        except aio.AioRpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return Left.KEEPING if late else Left.REFUSING
    return Left.SERVING if said is ServingStatus.SERVING else Left.REFUSING


async def known_on(sockets: Sequence[Path], patience: float) -> Known:
    """The endpoints that those who serve there may pick; they have `patience` seconds to say."""
    return read_known(await asyncio.gather(*(_known_on(path, patience) for path in sockets)))


async def _known_on(path: Path, patience: float) -> bytes:
    async with _channel(path) as channel:
        ask = channel.unary_unary(KNOWN_ENDPOINTS)
        try:
            return bytes(await ask(b"", timeout=patience))
        except aio.AioRpcError:
            # nobody is there, or an older version: nothing is known
            return b"{}"


@asynccontextmanager
async def _channel(path: Path) -> AsyncIterator[aio.Channel]:
    options = [
        # A pool of connections of its own: grpcio's shared one would remember that nobody was there.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", _LARGEST_ANSWER),
    ]
    async with aio.insecure_channel(f"unix:{path.absolute()}", options=options) as channel:
        yield channel
