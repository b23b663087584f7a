"""A gRPC upstream for h2c pools: unary echo, server streaming and bidirectional echo of raw bytes.

It knows no message types, as a data plane must not need them.
"""

import argparse
import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

ECHO = "/testbed.Model/Echo"
"""Unary: returns the request."""
REPEAT = "/testbed.Model/Repeat"
"""Server streaming: returns the request `x-count` (metadata) times, 3 times by default."""
CHAT = "/testbed.Model/Chat"
"""Bidirectional: returns each message at once."""


class _Model(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self) -> None:
        self.address = ""
        self._methods = {
            ECHO: grpc.unary_unary_rpc_method_handler(self._echo),
            REPEAT: grpc.unary_stream_rpc_method_handler(self._repeat),
            CHAT: grpc.stream_stream_rpc_method_handler(self._chat),
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)

    async def _name(self, context: Any) -> None:
        await context.send_initial_metadata((("x-model-server", self.address),))

    async def _echo(self, request: bytes, context: Any) -> bytes:
        await self._name(context)
        return request

    async def _repeat(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await self._name(context)
        count = dict(context.invocation_metadata()).get("x-count", "3")
        if not count.isdigit():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x-count is not a number")
        for _ in range(int(count)):
            yield request

    async def _chat(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await self._name(context)
        async for message in messages:
            yield message


@asynccontextmanager
async def running_grpc_model(listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serve at `ip:port` (0: any port) in this event loop; yields the bound address."""
    model = _Model()
    server = aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((model,))
    port = server.add_insecure_port(listen)
    model.address = f"{listen.rpartition(':')[0]}:{port}"
    await server.start()
    try:
        yield model.address
    finally:
        await server.stop(0)


async def _main(listen: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with running_grpc_model(listen) as address:
        print(json.dumps({"address": address}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", help="ip:port; port 0 is any port")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args().listen))
