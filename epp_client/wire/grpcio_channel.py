"""Channels of grpcio to pickers: their options and TLS. No streams.

grpcio cannot connect over TLS without verification, so mode `unverified` fetches the certificate first.
"""

import asyncio
import contextlib
import ssl
from typing import Any

import grpc
from grpc import aio

from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.http2.grpc import MAX_MESSAGE
from epp_client.wire.tls import Material

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.so_reuseport", 0),
]
"""Options of servers and channels."""
_CHANNEL_OPTIONS = [
    *OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # grpc-go and grpcio servers tolerate two pings without data, and close the connection at the third.
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.enable_http_proxy", 0),
]


async def until_ready(channel: aio.Channel) -> None:
    """Connect, and wait until the channel is ready.

    Raises:
        ConnectionError: the first attempt failed; gRPC does not tell why.
    """
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise ConnectionError("the connection ended before HTTP/2 began")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)


async def try_again(address: str, name: str, material: Material) -> None:
    """Connect without gRPC, to find out why it could not.

    Raises:
        OSError: TCP or TLS failed.
    """
    host, _, port = address.rpartition(":")
    context = material.context
    _, writer = await asyncio.open_connection(
        host.strip("[]"), int(port), ssl=context, server_hostname=name or host if context else None
    )
    writer.transport.abort()


async def open_channel(
    address: str, tls: ClientTls, server_name: str, material: Material
) -> aio.Channel:
    """A channel to `address` (`ip:port`) that has not connected yet.

    Raises:
        OSError: the server's certificate could not be fetched, which mode `unverified` needs.
    """
    target = f"ipv6:{address}" if address.startswith("[") else f"ipv4:{address}"
    if tls.mode is TlsMode.PLAINTEXT:
        return aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
    name = tls.server_name or server_name
    roots = material.ca
    if tls.mode is TlsMode.UNVERIFIED:
        roots, name = await _presented(address, name)
    credentials = grpc.ssl_channel_credentials(roots, material.key, material.cert)
    options = list(_CHANNEL_OPTIONS)
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    return aio.secure_channel(target, credentials, options=options)


async def _presented(address: str, name: str) -> tuple[bytes, str]:
    """Fetch the server's certificate without verification, to trust it as it is, and a name in it.
    Works for self-signed certificates, which pickers generate by default.
    """
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(
        host.strip("[]"), int(port), ssl=context, server_hostname=name or None
    )
    del reader
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(der).encode(), _name_in(der) or name


def _name_in(der: bytes) -> str:
    """A name in the certificate: its first DNS name, else its first address, else its common name."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    certificate = x509.load_der_x509_certificate(der)
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for kind in (x509.DNSName, x509.IPAddress):
            for value in names.get_values_for_type(kind):
                return str(value)
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else ""
