"""Keepalive pings: every server of ours takes as many as an Envoy sends, with a silent stream and without
one; and our clients send no more than the servers of pickers take.

gRPC's own servers count pings that come within five minutes, whatever their pace: the third is one too
many. So those here come as fast as they are answered.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio

from epp_client.pool.store import PoolStore
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire import grpcio_channel
from epp_client.wire.grpcio import GrpcioTransport, _AnyMethod
from epp_client.wire.http2 import frames
from epp_client.wire.native import NativeTransport
from epp_client.wire.transport import Transport
from epp_client.xds.ads import METHOD

from ..xds.talking_envoy import serving
from .owners import PATH, Accepting, Owner
from .raw import HEADERS, block, split

PINGS = 400
"""An Envoy with our bootstrap sends 360 an hour."""


def relay(transport: Transport) -> "Serving":
    @asynccontextmanager
    async def running(path: Path) -> AsyncIterator[None]:
        server = await transport.serve(str(path), Accepting())
        try:
            yield
        finally:
            await server.drain(0)

    return running


@asynccontextmanager
async def ads(path: Path) -> AsyncIterator[None]:
    async with serving(PoolStore(), path):
        yield


Serving = Callable[[Path], AbstractAsyncContextManager[None]]
SERVERS: dict[str, tuple[Callable[[], Serving], str]] = {
    "relay, native": (lambda: relay(NativeTransport()), PATH),
    "relay, grpcio": (lambda: relay(GrpcioTransport()), PATH),
    "ADS": (lambda: ads, METHOD),
}


async def pings_answered(path: Path, method: str | None) -> tuple[int, bytes]:
    """Ping until PINGS were answered or the server said GOAWAY; how many were, and its last words."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(frames.PREFACE + frames.settings({}))
        if method is not None:
            named = [(key, method if key == ":path" else value) for key, value in HEADERS]
            writer.write(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block(named)))
        for number in range(PINGS):
            mark = number.to_bytes(8)
            writer.write(frames.frame(frames.PING, 0, 0, mark))
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3]))
                (got,) = split(head + payload)
                if got.kind == frames.GOAWAY:
                    return number, got.payload
                if got.kind == frames.SETTINGS and not got.flags & frames.ACK:
                    writer.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
                if got.kind == frames.PING and got.payload == mark:
                    break
        return PINGS, b""
    finally:
        writer.close()


@pytest.mark.parametrize("silent_stream", [True, False], ids=["with a silent stream", "idle"])
@pytest.mark.parametrize("server", SERVERS)
async def test_an_hour_of_pings_cuts_no_connection(
    tmp_path: Path, server: str, silent_stream: bool
) -> None:
    start, method = SERVERS[server]
    async with start()(tmp_path / "socket"):
        answered = await pings_answered(tmp_path / "socket", method if silent_stream else None)
    assert answered == (PINGS, b"")


async def test_a_grpcio_client_pings_no_more_in_a_silence_than_servers_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # By default grpcio and grpc-go bear two pings more within five minutes; one second is grpcio's least.
    faster = [
        (name, 1000 if name == "grpc.keepalive_time_ms" else value)
        for name, value in grpcio_channel._CHANNEL_OPTIONS
    ]
    monkeypatch.setattr(grpcio_channel, "_CHANNEL_OPTIONS", faster)
    accepting = Accepting()
    server = aio.server(options=[("grpc.http2.max_ping_strikes", 1)])
    server.add_generic_rpc_handlers((_AnyMethod(accepting),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tls = ClientTls(mode=TlsMode.PLAINTEXT)
    connection = await GrpcioTransport().connect(f"127.0.0.1:{port}", tls, "", 20)
    owner = Owner()
    stream = connection.open(PATH, {}, owner)
    stream.send(b"the last word for long")
    # what is not sent has no event to wait for
    await asyncio.sleep(4.5)
    assert (owner.status, connection.usable) == (None, True)
    await connection.close()
    await server.stop(0)
