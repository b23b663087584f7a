"""A picker that records what it sees: a simulated one in this process, or a real one behind a proxy."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from epp_client.picker.client import PROCESS
from testbed.picker import ReferencePicker

Process = Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]


@dataclass
class Conversation:
    """One stream, as the picker saw it."""

    asked: list[ProcessingRequest] = field(default_factory=list)
    answered: list[ProcessingResponse] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    half_closed: bool = False
    """The other end has said that nothing more will come."""


class RecordingPicker(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The ext_proc service in front of `process`, which answers."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.conversations: list[Conversation] = []

    def service(self, handler_call_details: Any) -> Any:
        """Nothing but ext_proc: health is UNIMPLEMENTED, as with pickers that have it elsewhere."""
        if handler_call_details.method == PROCESS:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return None

    async def _stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        conversation = Conversation()
        self.conversations.append(conversation)

        async def seen() -> AsyncIterator[bytes]:
            async for raw in messages:
                conversation.asked.append(ProcessingRequest.FromString(raw))
                yield raw
            conversation.half_closed = True

        try:
            async for raw in self._process(seen(), context):
                conversation.answered.append(ProcessingResponse.FromString(raw))
                yield raw
        finally:
            conversation.ended.set()


@asynccontextmanager
async def recording(process: Process) -> AsyncIterator[tuple[RecordingPicker, str]]:
    """Serve in plaintext on any port of loopback; the picker and its `ip:port`."""
    picker = RecordingPicker(process)
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 1024 * 1024),
    ]
    server = aio.server(options=options)
    server.add_generic_rpc_handlers((picker,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield picker, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def simulated(endpoints: tuple[str, ...]) -> AsyncIterator[Process]:
    """A picker of ours, whose dialect each request names."""
    yield ReferencePicker(endpoints).process


@asynccontextmanager
async def forwarded(address: str) -> AsyncIterator[Process]:
    """A picker that another process is, at `ip:port` without TLS."""
    options = [("grpc.max_receive_message_length", -1)]
    async with aio.insecure_channel(address, options=options) as channel:
        stream = channel.stream_stream(PROCESS)

        async def process(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            call = stream(messages)
            try:
                async for raw in call:
                    yield raw
            except aio.AioRpcError as error:
                await context.abort(error.code(), error.details())
            finally:
                call.cancel()

        yield process
