"""The grpcio transport: the conservative choice, and the oracle that our own wire is tested against.

It adapts grpc.aio's coroutines to the callbacks of `transport.py`: one reading and one writing task
per stream, both owned by the stream and ended with it.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from grpc import aio

from epp_client.errors import PeerUnreachable
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.health import with_health
from epp_client.wire.http2.grpc import MAX_MESSAGE
from epp_client.wire.socket_file import SocketFile
from epp_client.wire.status import INTERNAL, OK, Status
from epp_client.wire.tls import Material, TlsStore, unreachable
from epp_client.wire.transport import NO_OWNER, Accept, Stream, StreamEvents

HIGH_WATER = 256 * 1024
"""Bytes waiting to be written on one stream at which its owner is asked to pause."""

PATIENT_WITH_PINGS: tuple[str, Any] = ("grpc.http2.max_ping_strikes", 0)
"""For every server that an Envoy connects to. By default the third ping within five minutes without data in
between ends the connection, and bootstraps have Envoy ping every few seconds. A ping costs nothing, and who
may open the socket may do worse."""

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.so_reuseport", 0),
]
_CHANNEL_OPTIONS = [
    *_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # grpc-go and grpcio bear two pings too many in a silence, and end the connection at the next.
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.enable_http_proxy", 0),
]


class _Stream(Stream):
    """What both ends share: an outgoing queue with one writer, a gate on reading."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._queue: deque[bytes | Status] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._paused = False
        self._over = False
        self.events: StreamEvents

    def send(self, message: bytes) -> None:
        if self._over:
            return
        self._queue.append(message)
        self._queued += len(message)
        self._wake.set()
        if self._queued > HIGH_WATER and not self._paused:
            self._paused = True
            self.events.pause_writing()

    def finish(self, status: Status = OK) -> None:
        if not self._over:
            self._queue.append(status)
            self._wake.set()

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    async def _write(self) -> Status:
        """Write what is queued until a status is; returns that status."""
        while True:
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, Status):
                    return item
                await self._call.write(item)
                self._queued -= len(item)
                if self._paused and self._queued <= HIGH_WATER // 2:
                    self._paused = False
                    self.events.resume_writing()
            self._wake.clear()
            await self._wake.wait()

    async def _read(self) -> None:
        while True:
            await self._may_read.wait()
            message = await self._call.read()
            if message is aio.EOF or self._over:
                return
            try:
                self.events.message_received(message)
            except Exception as error:
                self._owner_failed(error)
                return

    def _owner_failed(self, error: Exception) -> None:
        """The owner raised: its stream ends, which it is told like any other end."""
        text = "the owner of a gRPC stream failed"
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": text, "exception": error})
        owner, self.events = self.events, NO_OWNER
        status = Status(INTERNAL, "its owner failed")
        self._give_up(status)
        owner.closed(status)

    def _give_up(self, status: Status) -> None:
        """End it from our side."""
        raise NotImplementedError


class _ServerStream(_Stream):
    """One call from Envoy."""

    def __init__(self, call: Any) -> None:
        super().__init__(call)
        self._task = asyncio.current_task()

    def cancel(self) -> None:
        if not self._over and self._task is not None:
            self._over = True
            self._task.cancel()

    def _give_up(self, status: Status) -> None:
        # a cancelled handler would leave the client without an end
        self.finish(status)

    async def run(self) -> None:
        """Serve the call to its end; the caller's task is the writer."""
        reader = asyncio.create_task(self._read_all())
        finished = False
        try:
            status = await self._write()
            finished = True
            if status.code:
                await self._call.abort(_code(status.code), status.message)
        finally:
            reader.cancel()
            if not finished and not self._over:
                self._over = True
                self.events.closed(Status(grpc.StatusCode.CANCELLED.value[0], "Envoy hung up"))
            self._over = True
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader

    async def _read_all(self) -> None:
        try:
            await self._read()
        except aio.AioRpcError:
            # the call is broken; grpc.aio cancels the writer, which reports it
            return
        if not self._over:
            self.events.half_closed()


_FOUND_BY_GRPC: Final = (
    "Connection reset",
    "GOAWAY",
    "Received RST_STREAM",
    "RST_STREAM",
    "Socket closed",
    "Stream removed",
    "failed to connect",
)


class _ClientStream(_Stream):
    """One call to a picker."""

    def __init__(self, call: Any, events: StreamEvents, alive: Callable[[], bool]) -> None:
        """`alive`: whether the call's connection is there."""
        super().__init__(call)
        self.events = events
        self._alive = alive
        self._writer = asyncio.create_task(self._write_all())
        self._reader = asyncio.create_task(self._read_all())

    def cancel(self) -> None:
        self._over = True
        self._call.cancel()
        self._writer.cancel()

    def _give_up(self, status: Status) -> None:
        del status
        self.cancel()

    async def _write_all(self) -> None:
        with contextlib.suppress(
            aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError
        ):
            await self._write()
            await self._call.done_writing()

    async def _read_all(self) -> None:
        try:
            with contextlib.suppress(aio.AioRpcError):
                await self._read()
            code = await self._call.code()
            details = await self._call.details()
        except asyncio.CancelledError:
            if not self._call.cancelled():
                self._call.cancel()
            code, details = grpc.StatusCode.CANCELLED, "cancelled"
        self._writer.cancel()
        if not self._over:
            self._over = True
            text = details or ""
            # gRPC does not tell: what it found itself has words of its own, or no connection any more.
            said = self._alive() and not text.startswith(_FOUND_BY_GRPC)
            self.events.closed(Status(code.value[0], text, said))

    async def ended(self) -> None:
        """Wait until both tasks are gone."""
        await asyncio.gather(self._reader, self._writer, return_exceptions=True)


def _code(number: int) -> grpc.StatusCode:
    return next((c for c in grpc.StatusCode if c.value[0] == number), grpc.StatusCode.UNKNOWN)


class GrpcioServer:
    """A grpc.aio server whose every method is a stream of bytes messages."""

    def __init__(self, server: aio.Server, file: SocketFile | None = None) -> None:
        self._server = server
        self._file = file

    async def drain(self, timeout: float) -> None:
        if self._file is not None:
            self._file.remove()
        await self._server.stop(timeout)


class _AnyMethod(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, accept: Accept) -> None:
        self._accept = accept

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        metadata = {
            key: value
            for key, value in handler_call_details.invocation_metadata
            if isinstance(value, str)
        }

        async def handle(_: Any, call: Any) -> None:
            stream = _ServerStream(call)
            stream.events = self._accept(stream, path, metadata)
            await stream.run()

        return grpc.stream_stream_rpc_method_handler(handle)


class GrpcioConnection:
    """A channel to one address that has been ready once."""

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel
        self._streams: set[_ClientStream] = set()
        self._closed = False

    @property
    def usable(self) -> bool:
        return not self._closed and self._channel.get_state() is grpc.ChannelConnectivity.READY

    def open(self, path: str, metadata: Mapping[str, str], events: StreamEvents) -> _ClientStream:
        call = self._channel.stream_stream(path)(metadata=tuple(metadata.items()))
        stream = _ClientStream(call, events, lambda: self.usable)
        self._streams.add(stream)
        stream._reader.add_done_callback(lambda _: self._streams.discard(stream))
        return stream

    async def close(self, grace: float = 0.0) -> None:
        self._closed = True
        streams = list(self._streams)
        await self._channel.close(grace or None)
        for stream in streams:
            await stream.ended()


async def start_on_socket(server: aio.Server, path: str) -> SocketFile:
    """Start a server on a Unix socket, mode 0660; the socket that was there is replaced.

    Raises:
        RuntimeError, OSError: the socket cannot be bound.
    """
    file = SocketFile(path)
    with file.binding() as fresh:
        server.add_insecure_port(f"unix:{fresh}")
        await server.start()
    file.take_place()
    return file


class GrpcioTransport:
    """`Transport` over grpc.aio. `serving` answers health checks, as with `NativeTransport`."""

    name = "grpcio"

    def __init__(self, serving: Callable[[], bool] | None = None) -> None:
        self._serving = serving
        self._tls = TlsStore()

    def tls_edition(self, tls: ClientTls) -> int:
        return self._tls.edition(tls)

    async def serve(self, socket_path: str, accept: Accept) -> GrpcioServer:
        if self._serving is not None:
            accept = with_health(accept, self._serving)
        server = aio.server(options=[*_OPTIONS, PATIENT_WITH_PINGS])
        server.add_generic_rpc_handlers((_AnyMethod(accept),))
        return GrpcioServer(server, await start_on_socket(server, socket_path))

    async def connect(
        self, address: str, tls: ClientTls, server_name: str, timeout: float
    ) -> GrpcioConnection:
        material = self._tls.for_peer(address, tls)
        try:
            async with asyncio.timeout(timeout):
                channel = await _channel(address, tls, server_name, material)
        except (OSError, TimeoutError) as error:
            raise PeerUnreachable(_explain(address, tls, error)) from error
        try:
            async with asyncio.timeout(timeout):
                await _ready(channel)
        except (TimeoutError, ConnectionError) as error:
            await channel.close()
            raise PeerUnreachable(_explain(address, tls, error)) from error
        except BaseException:
            await channel.close()
            raise
        return GrpcioConnection(channel)


def _explain(address: str, tls: ClientTls, error: Exception) -> str:
    late = "timed out (epp-client.dev/connect-timeout)"
    cause = late if isinstance(error, TimeoutError) else str(error) or "refused"
    return unreachable(address, tls, cause)


async def _ready(channel: aio.Channel) -> None:
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise ConnectionError("refused")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)


async def _channel(
    address: str, tls: ClientTls, server_name: str, material: Material
) -> aio.Channel:
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
    """The certificate that the server presents, to be trusted as it is, and a name it carries.

    grpcio cannot skip verification, so the first look at the certificate is taken without it. Works
    for self-signed certificates, which is what pickers make for themselves.
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
    """A name that the certificate carries: its first DNS name, else its first address."""
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
