"""A simulated endpoint picker for the demo and the tests: an ext_proc server on grpc.aio.

By default it behaves like GAIE's. `x-picker-dialect` makes it behave like other pickers, or break the
protocol. `conversation` and `dialects` decide its answers.
"""

import argparse
import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from testbed.conversation import Conversation, Record
from testbed.dialects import DIALECTS
from testbed.steps import Fail, Finish, Wait

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_SERVICES = ("", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor")
"""Service names for which GAIE's picker answers health checks."""
_SERVING = b"\x08\x01"


class ReferencePicker:
    """The ext_proc service.

    `dialects` apply to requests that name none. `on_record` is called with the record of each request
    when its stream has ended.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        dialects: Sequence[str] = (),
        on_record: Callable[[Record], object] | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._dialects = dialects
        self._on_record = on_record
        self._turn = 0

    async def process(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """One ext_proc stream from the sidecar."""
        self._turn += 1
        conversation = Conversation(self._endpoints, self._turn, self._dialects, DIALECTS)
        finished = False
        try:
            async for raw in messages:
                try:
                    steps = list(conversation.receive(ProcessingRequest.FromString(raw)))
                except (DecodeError, KeyError) as error:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, repr(error))
                for step in steps:
                    match step:
                        case bytes():
                            yield step
                        case Wait(seconds):
                            await asyncio.sleep(seconds)
                        case Finish():
                            finished = True
                            return
                        case Fail(status, message):
                            await context.abort(grpc.StatusCode[status], message)
                        case _:
                            yield step.SerializeToString()
            finished = True
        finally:
            record = conversation.finish() if self._on_record is not None else None
            if record is not None and self._on_record is not None:
                record.finished = finished
                self._on_record(record)


async def _check_health(request: bytes, context: Any) -> bytes:
    # HealthCheckRequest has one string, field 1; all names are shorter than 128 bytes.
    service = request[2:].decode(errors="replace")
    if service not in HEALTH_SERVICES:
        await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {service!r}")
    return _SERVING


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, picker: ReferencePicker, health: bool) -> None:
        self._picker = picker
        self._health = health

    def service(self, handler_call_details: Any) -> Any:
        match handler_call_details.method:
            case method if method == PROCESS:
                return grpc.stream_stream_rpc_method_handler(self._picker.process)
            case method if method == HEALTH_CHECK and self._health:
                return grpc.unary_unary_rpc_method_handler(_check_health)
        return None


async def start_picker(
    address: str,
    endpoints: Sequence[str],
    credentials: grpc.ServerCredentials | None = None,
    dialects: Sequence[str] = (),
    on_record: Callable[[Record], object] | None = None,
    health: bool = True,
) -> tuple[aio.Server, str]:
    """Start a picker at `ip:port` (0: any port); returns the server and its bound address.

    Without `health` it has no health service, like pickers that serve it on another port.
    """
    unlimited = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = aio.server(options=unlimited)
    picker = ReferencePicker(endpoints, dialects, on_record)
    server.add_generic_rpc_handlers((_Handler(picker, health),))
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    return server, f"{address.rpartition(':')[0]}:{port}"


def tls_credentials(
    certificate: Path, key: Path, client_authority: Path | None = None
) -> grpc.ServerCredentials:
    """Credentials from PEM files. With `client_authority`, clients need a certificate of that CA."""
    roots = client_authority.read_bytes() if client_authority else None
    pair = [(key.read_bytes(), certificate.read_bytes())]
    return grpc.ssl_server_credentials(pair, roots, roots is not None)


async def _main(arguments: argparse.Namespace) -> None:
    credentials = None
    if arguments.tls_cert is not None:
        credentials = tls_credentials(arguments.tls_cert, arguments.tls_key, arguments.client_ca)
    server, address = await start_picker(
        arguments.listen,
        arguments.endpoints,
        credentials,
        arguments.dialect,
        health=not arguments.no_health,
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(json.dumps({"address": address}), flush=True)
    await stop.wait()
    await server.stop(0)


def _dialects(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in DIALECTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(DIALECTS)}")
    return names


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", help="ip:port; port 0 is any port")
    parser.add_argument(
        "--endpoints", required=True, type=lambda text: text.split(","), help="ip:port,ip:port"
    )
    parser.add_argument("--dialect", default=[], type=_dialects, help="NAME[,NAME...]")
    parser.add_argument("--tls-cert", type=Path, help="PEM file; plaintext without it")
    parser.add_argument("--tls-key", type=Path, help="PEM file")
    parser.add_argument("--no-health", action="store_true", help="serve no health checks")
    parser.add_argument("--client-ca", type=Path, help="PEM file; clients must show a certificate")
    arguments = parser.parse_args()
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        parser.error("--tls-cert and --tls-key need each other: give both")
    return arguments


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(_arguments()))
