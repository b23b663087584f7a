"""Bodies go through the sidecar as they came: never decoded, never copied into another shape, never cut
or joined. Both transports' sockets, a picker that speaks raw bytes, and no Envoy that might forgive."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from epp_client.data_plane.plane import DataPlane
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from epp_client.picker.client import PROCESS
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.relay.actions import ToPicker
from epp_client.relay.exchange import Exchange
from epp_client.relay.retention import RetentionBudget
from epp_client.settings import ServeSettings, TransportName
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.native import NativeTransport
from epp_client.wire.protocol import ClientProtocol, as_protocol
from epp_client.wire.status import OK, UNIMPLEMENTED, Status
from epp_client.wire.transport import Stream, StreamEvents

from ..relay.conversation import (
    A,
    answered,
    body,
    picked,
    request_headers,
    response_headers,
    snapshot,
    streamed,
)
from ..wire.owners import Owner
from ..wire.test_native import loopback, until

INDECIPHERABLE = b"\x4a\x04\x0a\x02\xff\xfe"
"""A field that protobuf refuses (`attributes` with a key that is no UTF-8): whoever decodes, fails."""
PAYLOADS = [
    b"\xff\xfe\x80 no UTF-8",
    b"\x0a\xff\xff\xff\xff\x7f",
    b"",
    bytes(16_375),
    bytes(70_000),
    b"{",
]


def test_the_bait_cannot_be_decoded() -> None:
    with pytest.raises(DecodeError):
        ProcessingRequest.FromString(body(b"x") + INDECIPHERABLE)


def test_what_goes_to_the_picker_is_the_very_object_that_came() -> None:
    exchange = Exchange(
        snapshot(),
        local_pick=lambda *_: (A,),
        budget=RetentionBudget(1 << 30),
        trailers_expected=False,
    )
    exchange.from_envoy(request_headers())
    for payload in PAYLOADS:
        raw = body(payload) + INDECIPHERABLE
        (sent,) = [a.message for a in exchange.from_envoy(raw) if isinstance(a, ToPicker)]
        assert sent is raw


class RawPicker:
    """Writes down every message, and says what the test tells it to."""

    def __init__(self) -> None:
        self.call = Owner()

    def __call__(self, stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        del metadata
        # a health check
        if path != PROCESS:
            stream.finish(Status(UNIMPLEMENTED))
            return Owner()
        self.call.stream = stream
        return self.call


@contextlib.asynccontextmanager
async def relayed(
    transport: TransportName, tmp_path: Path, **settings: Any
) -> AsyncIterator[tuple[Owner, Owner]]:
    """Envoy's call and the picker's call, joined by a data plane."""
    picker = RawPicker()
    sock, address = loopback()
    server = await NativeTransport().serve_socket(sock, picker)
    store = PoolStore()
    tls = ClientTls(mode=TlsMode.PLAINTEXT).model_dump()
    pool = snapshot(tls=tls, **{"response_timeout": 20, "pick_timeout": 20, **settings})
    target = PickerTarget((address,), "epp.default.svc")
    path = tmp_path / "s"
    serve = ServeSettings(pools=tmp_path, socket=path, workers=0, transport=transport)
    plane = DataPlane(serve, store)
    await plane.start()
    store.publish({pool.pool.name: PoolSnapshot(pool.pool, pool.table, target)})
    protocol = ClientProtocol("http", "sidecar", 10, 5)
    await asyncio.get_running_loop().create_unix_connection(
        lambda: as_protocol(protocol), str(path)
    )
    async with asyncio.timeout(60):
        await protocol.ready
    envoy = Owner()
    envoy.stream = protocol.connection.open(PROCESS, {"x-inference-pool": "default/llama"}, envoy)
    try:
        yield envoy, picker.call
    finally:
        protocol.end("done")
        await plane.drain(0)
        await plane.close()
        await server.drain(0)


@pytest.mark.parametrize("transport", list(TransportName))
async def test_bodies_are_not_decoded_and_keep_their_chunks(
    transport: TransportName, tmp_path: Path
) -> None:
    async with relayed(transport, tmp_path) as (envoy, picker):
        assert envoy.stream is not None
        sent = [request_headers()]
        sent += [body(payload) + INDECIPHERABLE for payload in PAYLOADS]
        sent += [body(b"last", True) + INDECIPHERABLE]
        for message in sent:
            envoy.stream.send(message)
        await until(picker, lambda: len(picker.messages) >= len(sent))
        assert picker.messages[1:] == sent[1:]

        assert picker.stream is not None
        replies = [streamed(payload) for payload in PAYLOADS]
        replies += [streamed(b"last", True)]
        picker.stream.send(picked(A))
        for message in replies:
            picker.stream.send(message)
        await until(envoy, lambda: len(envoy.messages) >= 1 + len(replies))
        assert envoy.messages[1:] == replies

        picker.messages.clear()
        envoy.messages.clear()
        response = [response_headers()]
        response += [body(p, response=True) + INDECIPHERABLE for p in PAYLOADS]
        response += [body(b"last", True, response=True) + INDECIPHERABLE]
        for message in response:
            envoy.stream.send(message)
        await until(picker, lambda: len(picker.messages) >= len(response))
        assert picker.messages[1:] == response[1:]
        replies = [streamed(p, response=True) for p in PAYLOADS]
        replies += [streamed(b"last", True, response=True)]
        picker.stream.send(answered("response_headers"))
        for message in replies:
            picker.stream.send(message)
        await until(envoy, lambda: len(envoy.messages) >= 1 + len(replies))
        assert envoy.messages[1:] == replies
        envoy.stream.finish()
        await until(envoy, lambda: envoy.status is not None)
        assert envoy.status == OK
