"""What a user reads when a picker cannot be connected to: the cause, and what to set."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
import pytest_asyncio
import trustme

from epp_client.errors import PeerUnreachable
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.grpcio import GrpcioTransport
from epp_client.wire.native import NativeTransport
from epp_client.wire.transport import Transport

PLAINTEXT, UNVERIFIED, VERIFIED = TlsMode.PLAINTEXT, TlsMode.UNVERIFIED, TlsMode.VERIFIED
SET_PLAINTEXT = "set --picker-tls plaintext"
SET_TLS = "set --picker-tls unverified or verified"

Peers = dict[str, str]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.close()


@pytest_asyncio.fixture
async def peers() -> AsyncIterator[Peers]:
    """Addresses of servers, by what they speak."""
    issued = trustme.CA().issue_cert("127.0.0.1")
    key = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    server = grpc.aio.server()
    plaintext = server.add_insecure_port("127.0.0.1:0")
    secure = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([key]))
    await server.start()
    closes = await asyncio.start_server(closing, "127.0.0.1", 0)
    ports = {
        "plaintext": plaintext,
        "TLS": secure,
        "nothing": closes.sockets[0].getsockname()[1],
    }
    yield {name: f"127.0.0.1:{port}" for name, port in ports.items()} | {"nobody": "127.0.0.1:1"}
    closes.close()
    await server.stop(None)


@pytest.mark.parametrize("transport", [NativeTransport, GrpcioTransport])
@pytest.mark.parametrize(
    ("speaks", "mode", "said"),
    [
        ("plaintext", UNVERIFIED, f"the picker speaks plaintext: {SET_PLAINTEXT}"),
        ("plaintext", VERIFIED, f"the picker speaks plaintext: {SET_PLAINTEXT}"),
        ("TLS", VERIFIED, "its certificate is not trusted"),
        ("TLS", VERIFIED, "set epp-client.dev/tls-ca-file"),
        ("TLS", PLAINTEXT, f"if the picker speaks TLS, {SET_TLS}"),
        ("nothing", PLAINTEXT, f"if the picker speaks TLS, {SET_TLS}"),
        ("nothing", UNVERIFIED, f"if the picker speaks plaintext, {SET_PLAINTEXT}"),
        *(("nobody", mode, "connection refused: no process listens there") for mode in TlsMode),
    ],
)
async def test_the_cause_is_named_and_what_to_set(
    peers: Peers, transport: Callable[[], Transport], speaks: str, mode: TlsMode, said: str
) -> None:
    with pytest.raises(PeerUnreachable) as failed:
        await transport().connect(peers[speaks], ClientTls(mode=mode), "epp.default.svc", 30)
    assert str(failed.value).startswith(f"{peers[speaks]} over {mode.spoken}: ")
    assert said in str(failed.value)
