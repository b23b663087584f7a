"""Asks the processes that served the relay's sockets before this one: do they still serve, and which
endpoints do they know?"""

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
    """What happens with a request to a socket, from bad to good."""

    REFUSING = 0
    """Refused; Envoy retries for about 10 s."""
    KEEPING = 1
    """Queued, as some process holds the listening socket."""
    SERVING = 2
    """Served by workers that know the pools."""


async def left_on(sockets: Sequence[Path], claimed: bool = False) -> Left:
    """The worst state of `sockets`. If other sockets are `claimed`, it is at most KEEPING."""
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
    """The endpoints that processes serving `sockets` may pick, as far as they answer within `patience`
    seconds."""
    return read_known(await asyncio.gather(*(_known_on(path, patience) for path in sockets)))


async def _known_on(path: Path, patience: float) -> bytes:
    async with _channel(path) as channel:
        ask = channel.unary_unary(KNOWN_ENDPOINTS)
        try:
            return bytes(await ask(b"", timeout=patience))
        except aio.AioRpcError:
            # No process serves there, or one of an older version.
            return b"{}"


@asynccontextmanager
async def _channel(path: Path) -> AsyncIterator[aio.Channel]:
    options = [
        # Do not share subchannels: grpcio would remember that connecting failed.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", _LARGEST_ANSWER),
    ]
    async with aio.insecure_channel(f"unix:{path.absolute()}", options=options) as channel:
        yield channel
