"""The grpcio transport, on gRPC's own implementation. Tests compare our own wire with it.

It adapts grpc.aio's coroutines to the callbacks of `transport.py`. Each stream has a reading and a writing
task, which end with it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from grpc import aio

from epp_client.errors import PeerUnreachable
from epp_client.tls_settings import ClientTls
from epp_client.wire.grpcio_channel import OPTIONS, open_channel, try_again, until_ready
from epp_client.wire.health import with_health
from epp_client.wire.socket_file import SocketFile
from epp_client.wire.status import INTERNAL, OK, Status
from epp_client.wire.tls import TlsStore, explain
from epp_client.wire.transport import NO_OWNER, Accept, Stream, StreamEvents

HIGH_WATER = 256 * 1024
"""Queued bytes of one stream above which its owner is told to pause writing."""

LAST_HANDLERS = 2.0
"""Seconds of a drain for the handlers of ended calls to hear of their end."""

UNLIMITED_PINGS: tuple[str, Any] = ("grpc.http2.max_ping_strikes", 0)
"""Server option that tolerates any number of pings. By default the third ping within five minutes without
data closes the connection, and many bootstraps have Envoy ping every few seconds."""


class _Stream(Stream):
    """The common part of both ends: an outgoing queue with one writer, and the pausing of reads."""

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
        """Write queued messages until a status is queued; returns the status."""
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
        """End the stream of an owner that raised, and call its `closed`."""
        text = "the owner of a gRPC stream failed"
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": text, "exception": error})
        owner, self.events = self.events, NO_OWNER
        status = Status(INTERNAL, "the owner of the stream failed")
        self._give_up(status)
        owner.closed(status)

    def _give_up(self, status: Status) -> None:
        """End the stream with `status`."""
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
        # Finish instead of cancelling: a cancelled handler sends the client no status.
        self.finish(status)

    async def run(self) -> None:
        """Serve the call to its end. The caller's task is the writer."""
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
                self.events.closed(
                    Status(grpc.StatusCode.CANCELLED.value[0], "the client ended the call")
                )
            self._over = True
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader

    async def _read_all(self) -> None:
        try:
            await self._read()
        except aio.AioRpcError:
            # The call is broken. grpc.aio cancels the writer, which reports it.
            return
        if not self._over:
            self.events.half_closed()


_TRANSPORT_ERRORS: Final = (
    "Connection reset",
    "GOAWAY",
    "Received RST_STREAM",
    "RST_STREAM",
    "Socket closed",
    "Stream removed",
    "failed to connect",
)


"""Beginnings of gRPC's own texts for errors of the transport."""


class _ClientStream(_Stream):
    """One call to a picker."""

    def __init__(self, call: Any, events: StreamEvents, alive: Callable[[], bool]) -> None:
        """`alive` returns whether the call's connection is ready."""
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
            # gRPC does not report whether the picker sent the status. It made the status itself if the
            # connection is lost, or if the text is a known one.
            said = self._alive() and not text.startswith(_TRANSPORT_ERRORS)
            self.events.closed(Status(code.value[0], text, said))

    async def ended(self) -> None:
        """Wait until both tasks have ended."""
        await asyncio.gather(self._reader, self._writer, return_exceptions=True)


def _code(number: int) -> grpc.StatusCode:
    return next((c for c in grpc.StatusCode if c.value[0] == number), grpc.StatusCode.UNKNOWN)


class GrpcioServer:
    """A grpc.aio server that accepts every method as a stream of bytes."""

    def __init__(
        self, server: aio.Server, file: SocketFile | None = None, calls: "_AnyMethod | None" = None
    ) -> None:
        self._server = server
        self._file = file
        self._calls = calls

    async def drain(self, timeout: float) -> None:
        if self._file is not None:
            self._file.remove()
        await self._server.stop(timeout)
        # The calls are over, but gRPC may have still to tell their handlers.
        if self._calls is not None and self._calls.running:
            await asyncio.wait(self._calls.running, timeout=LAST_HANDLERS)


class _AnyMethod(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self.running: set[asyncio.Task[Any]] = set()
        """The handlers of the open calls."""

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        metadata = {
            key: value
            for key, value in handler_call_details.invocation_metadata
            if isinstance(value, str)
        }

        async def handle(_: Any, call: Any) -> None:
            stream = _ServerStream(call)
            task = asyncio.current_task()
            assert task is not None
            self.running.add(task)
            try:
                stream.events = self._accept(stream, path, metadata)
                await stream.run()
            finally:
                self.running.discard(task)

        return grpc.stream_stream_rpc_method_handler(handle)


class GrpcioConnection:
    """A channel to one address that has been ready."""

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
    """Start a server on a Unix socket of mode 0660, replacing an existing one.

    Raises:
        RuntimeError, OSError: the socket cannot be bound.
    """
    file = SocketFile(path)
    # It listens from here on; clients wait until it accepts.
    file.bind(lambda fresh: server.add_insecure_port(f"unix:{fresh}"))
    await server.start()
    file.take_place()
    return file


class GrpcioTransport:
    """`Transport` over grpc.aio. `serving` answers health checks, as in `NativeTransport`."""

    name = "grpcio"

    def __init__(self, serving: Callable[[], bool] | None = None) -> None:
        self._serving = serving
        self._tls = TlsStore()

    def tls_edition(self, tls: ClientTls) -> int:
        return self._tls.edition(tls)

    async def serve(self, socket_path: str, accept: Accept) -> GrpcioServer:
        if self._serving is not None:
            accept = with_health(accept, self._serving)
        server = aio.server(options=[*OPTIONS, UNLIMITED_PINGS])
        calls = _AnyMethod(accept)
        server.add_generic_rpc_handlers((calls,))
        return GrpcioServer(server, await start_on_socket(server, socket_path), calls)

    async def connect(
        self, address: str, tls: ClientTls, server_name: str, timeout: float
    ) -> GrpcioConnection:
        material = self._tls.for_peer(address, tls)
        try:
            async with asyncio.timeout(timeout):
                channel = await open_channel(address, tls, server_name, material)
        except (OSError, TimeoutError) as error:
            raise PeerUnreachable(explain(address, tls, error)) from error
        try:
            async with asyncio.timeout(timeout):
                try:
                    await until_ready(channel)
                except ConnectionError:
                    await try_again(address, tls.server_name or server_name, material)
                    raise
        except (TimeoutError, OSError) as error:
            await channel.close()
            raise PeerUnreachable(explain(address, tls, error)) from error
        except BaseException:
            await channel.close()
            raise
        return GrpcioConnection(channel)
