"""What Envoy sends while the picker is still being reached: bounded, in order, and not lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from epp_client.data_plane.session import MAX_PENDING, Session
from epp_client.picker.client import PROCESS
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.native import NativeTransport

from ..relay.conversation import body, request_headers, snapshot
from ..wire.test_native import loopback, until
from .test_admission import EnvoyStream, service
from .test_forwarding import RawPicker

CHUNK = bytes(64 * 1024)


class Envoy(EnvoyStream):
    """Counts what it is told about reading."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@contextlib.asynccontextmanager
async def asked(address: str, **settings: Any) -> AsyncIterator[tuple[Envoy, Session]]:
    """A stream of Envoy's whose pool has its picker at `address`."""
    made = service(synced=False)
    tls = ClientTls(mode=TlsMode.PLAINTEXT).model_dump()
    pool = snapshot(tls=tls, pick_timeout=20, **settings)
    target = PickerTarget((address,), "epp.default.svc")
    made.store.publish({pool.pool.name: PoolSnapshot(pool.pool, pool.table, target)})
    envoy = Envoy()
    session = made.accept(envoy, PROCESS, {"x-inference-pool": "default/llama"})
    assert isinstance(session, Session)
    session.message_received(request_headers())
    try:
        yield envoy, session
    finally:
        session.half_closed()
        await made.pickers.close()
        made.close()


async def test_envoy_is_held_back_and_goes_on_when_the_picker_is_reached() -> None:
    picker, (sock, address) = RawPicker(), loopback()
    async with asked(address, connect_timeout=20) as (envoy, session):
        sent: list[bytes] = []
        while envoy.reading and len(sent) < 100:
            sent.append(body(CHUNK))
            session.message_received(sent[-1])
        assert not envoy.reading
        assert session._pending_bytes < MAX_PENDING + 2 * len(CHUNK)
        server = await NativeTransport().serve_socket(sock, picker)
        await until(picker.call, lambda: len(picker.call.messages) > len(sent))
        assert envoy.reading
        assert picker.call.messages[1:] == sent
        sent.append(body(b"last", True))
        session.message_received(sent[-1])
        await until(picker.call, lambda: len(picker.call.messages) > len(sent))
        assert picker.call.messages[1:] == sent
        await server.drain(0)


async def test_envoy_is_not_held_back_for_ever_by_a_picker_that_is_not_reached() -> None:
    sock, address = loopback()
    with contextlib.closing(sock):
        # and never says a word
        sock.listen()
        await held_back(address)


async def held_back(address: str) -> None:
    async with asked(address, connect_timeout=0.5) as (envoy, session):
        while envoy.reading:
            session.message_received(body(CHUNK))
        async with asyncio.timeout(60):
            while not envoy.sent:
                await asyncio.sleep(0.01)
        assert envoy.reading
        assert session._pending_bytes == 0
