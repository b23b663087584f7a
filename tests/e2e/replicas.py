"""Several replicas of one picker, some of them standbys: what the health tests put behind a Service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

from epp_client.picker.client import PROCESS
from epp_client.wire.health import CHECK, EXT_PROC, ServingStatus, check_request
from testbed.picker import ReferencePicker
from testbed.stack import service


class Replica:
    """A picker in this process that can be told to be a standby: it then refuses with a 503, as
    GAIE's does, and its health check says NOT_SERVING."""

    def __init__(self, endpoints: tuple[str, ...]) -> None:
        self.serving = True
        self.asked = 0
        self.address = ""
        self._leader = ReferencePicker(endpoints)
        self._standby = ReferencePicker(endpoints, ["refuse-503"])

    async def _process(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.asked += 1
        picker = self._leader if self.serving else self._standby
        async for answer in picker.process(messages, context):
            yield answer

    async def _check(self, request: bytes, context: Any) -> bytes:
        if request != check_request(EXT_PROC):
            await context.abort(grpc.StatusCode.NOT_FOUND, "another service")
        return bytes((0x08, ServingStatus.SERVING if self.serving else ServingStatus.NOT_SERVING))

    def service(self, details: Any) -> Any:
        """grpc's GenericRpcHandler."""
        if details.method == PROCESS:
            return grpc.stream_stream_rpc_method_handler(self._process)
        if details.method == CHECK:
            return grpc.unary_unary_rpc_method_handler(self._check)
        return None


@asynccontextmanager
async def replica(endpoints: tuple[str, ...]) -> AsyncIterator[Replica]:
    """A running replica."""
    picker = Replica(endpoints)
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((picker,))
    picker.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield picker
    finally:
        await server.stop(0)


def replicated_service(name: str, *addresses: str) -> list[dict[str, Any]]:
    """A picker's Service whose replicas listen on ports of their own: a slice for each."""
    [first, _] = service(name, addresses[0])
    objects = [first]
    for index, address in enumerate(addresses):
        [_, part] = service(name, address)
        part["metadata"]["name"] = f"{name}-{index}"
        objects.append(part)
    return objects
