"""Certificates that are rotated while a picker is connected, over both transports."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc import aio

from epp_client.picker.client import PickerClient
from epp_client.picker.health import Health
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.grpcio import GrpcioTransport
from epp_client.wire.health import CHECK
from epp_client.wire.native import NativeTransport
from epp_client.wire.transport import Transport


class _Picker:
    """Serves health only; writes down whose certificate each check came with."""

    def __init__(self) -> None:
        self.clients: list[bytes] = []

    def service(self, details: Any) -> Any:
        assert details.method == CHECK
        return grpc.unary_unary_rpc_method_handler(self._check)

    async def _check(self, _: bytes, context: Any) -> bytes:
        self.clients += context.auth_context()["x509_subject_alternative_name"]
        return b"\x08\x01"


@asynccontextmanager
async def listening(authority: trustme.CA) -> AsyncIterator[tuple[_Picker, str]]:
    own = authority.issue_cert("epp.test")
    credentials = grpc.ssl_server_credentials(
        [(own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        True,
    )
    server, picker = aio.server(), _Picker()
    server.add_generic_rpc_handlers((picker,))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield picker, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("transport", [NativeTransport, GrpcioTransport])
async def test_a_rotated_client_certificate_is_shown_and_a_broken_one_is_not(
    transport: Callable[[], Transport], tmp_path: Path
) -> None:
    authority = trustme.CA()
    files = {f"{name}_file": tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(files["ca_file"])

    def rotate(name: str) -> None:
        pair = authority.issue_cert(name)
        pair.cert_chain_pems[0].write_to_path(files["cert_file"])
        pair.private_key_pem.write_to_path(files["key_file"])

    rotate("one.test")
    tls = ClientTls(mode=TlsMode.VERIFIED, **files)
    async with listening(authority) as (picker, address):
        client = PickerClient("default/llama", transport())
        client.retarget(
            PickerTarget((address,), "epp.test"),
            PoolSettings(connect_timeout=10, pick_timeout=1, tls=tls),
        )
        try:
            await until(lambda: client.states == {address: Health.SERVING})
            assert set(picker.clients) == {b"one.test"}
            files["key_file"].write_bytes(b"half of a k")
            checks = len(picker.clients)
            await until(lambda: len(picker.clients) > checks + 10)
            assert client.states == {address: Health.SERVING}
            assert set(picker.clients) == {b"one.test"}
            rotate("two.test")
            await until(lambda: picker.clients[-1] == b"two.test")
            assert client.states == {address: Health.SERVING}
            await until(lambda: client.ready() is not None)
        finally:
            await client.close()
