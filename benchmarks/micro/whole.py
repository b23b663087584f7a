"""Measures complete requests through a worker in one process without sockets.

Everything from the server's protocol to the picker's is real, except the two sockets and their peers, which
are prepared frames. What remains is the worker's own CPU time. The best of some batches is the same on a
busy machine as on an idle one.
"""

import asyncio
import logging
import sys
import time
from math import inf
from typing import Any

import structlog
import uvloop

from benchmarks.micro.conversation import KEY, conversation, snapshot
from epp_client import collector
from epp_client.data_plane.service import ExtProcService
from epp_client.ext_proc.messages import POOL_KEY
from epp_client.metrics.counters import Counters
from epp_client.picker.client import PROCESS, PickerClients
from epp_client.picker.health import CHECK_INTERVAL
from epp_client.pool.store import PoolStore
from epp_client.relay.outcome import Outcome
from epp_client.wire.health import with_health
from epp_client.wire.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
    settings,
    window_update,
)
from epp_client.wire.http2.headers import NO_TABLE, RESPONSE, TRAILERS_OK, literals
from epp_client.wire.native_connection import NativeConnection
from epp_client.wire.protocol import ClientProtocol, ServerProtocol

POOL = "default/llama"
_GREETING = settings({}) + frame(SETTINGS, ACK, 0) + window_update(0, 1 << 30)
_HEALTHY = b"\x08\x01"
_FIRST_PICK = 3
"""Id of the stream of the first pick, after that of the health check."""


class _Socket(asyncio.Transport):
    """A transport that counts writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = self.size = 0

    def write(self, data: Any) -> None:
        self.writes += 1
        self.size += len(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""

    def abort(self) -> None:
        """Nothing is open."""

    def get_write_buffer_size(self) -> int:
        return 0


def _message(stream_id: int, message: bytes) -> bytes:
    return frame(DATA, 0, stream_id, b"\0" + len(message).to_bytes(4) + message)


def _steps(chunks: int, envoy_id: int, picker_id: int) -> list[tuple[bool, bytes]]:
    """The socket reads of one request, in order: whether it is Envoy's socket, and the bytes."""
    start = [
        (":method", "POST"), (":scheme", "http"), (":path", PROCESS), (":authority", "sidecar"),
        ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "3600S"),
        (POOL_KEY, POOL), ("x-envoy-internal", "true"),
    ]  # fmt: skip
    steps: list[tuple[bool, bytes]] = [
        (True, frame(HEADERS, END_HEADERS, envoy_id, literals(start)))
    ]
    # As Envoy does once it knows that we use no dynamic table.
    if envoy_id == 1:
        steps = [(True, frame(HEADERS, END_HEADERS, envoy_id, NO_TABLE + literals(start)))]
    answered = False
    for of_envoy, raw in conversation(chunks):
        data = _message(envoy_id if of_envoy else picker_id, raw)
        if not of_envoy and not answered:
            answered, data = True, frame(HEADERS, END_HEADERS, picker_id, RESPONSE) + data
        if steps[-1][0] == of_envoy:
            steps[-1] = (of_envoy, steps[-1][1] + data)
        else:
            steps.append((of_envoy, data))
    steps.append((True, frame(DATA, END_STREAM, envoy_id)))
    steps.append((False, frame(HEADERS, END_HEADERS | END_STREAM, picker_id, TRAILERS_OK)))
    return steps


class _PickerTransport:
    """A `Transport` whose connections lead to a `_Socket`."""

    def __init__(self) -> None:
        self.protocols: list[ClientProtocol] = []

    def tls_edition(self, _: object) -> int:
        return 0

    async def connect(self, *_: object) -> NativeConnection:
        protocol = ClientProtocol("http", "picker", 3600.0, 3600.0)
        protocol.connection_made(_Socket())
        protocol.data_received(_GREETING)
        self.protocols.append(protocol)

        async def dial() -> ClientProtocol:
            raise AssertionError("one connection is enough")

        return NativeConnection(protocol, dial)


_Script = list[tuple[bool, bytes]]


async def _batch(script: _Script, requests: int) -> float:
    """CPU seconds of the requests, one after the other; infinity if a health check came in between."""
    began_at = time.monotonic()
    loop = asyncio.get_running_loop()
    store, transport, counters = PoolStore(), _PickerTransport(), Counters()
    pickers = PickerClients(transport)  # type: ignore[arg-type]
    service = ExtProcService(
        store, pickers, counters, max_exchanges=1000, max_retained_total=1 << 30
    )
    pool = snapshot()
    store.publish({pool.pool.name: pool})
    store.acknowledge(pool.pool.name, pool.table.generation)
    while not transport.protocols:
        await asyncio.sleep(0)
    picker = transport.protocols[0]
    while not picker.connection.streams:
        await asyncio.sleep(0)
    # Answer the health check of the address.
    check = _FIRST_PICK - 2
    picker.data_received(
        frame(HEADERS, END_HEADERS, check, NO_TABLE + RESPONSE)
        + _message(check, _HEALTHY)
        + frame(HEADERS, END_HEADERS | END_STREAM, check, TRAILERS_OK)
    )
    while pickers[POOL].ready() is None:
        await asyncio.sleep(0)
    envoy = ServerProtocol(with_health(service.accept, lambda: True))
    envoy.connection_made(_Socket())
    envoy.data_received(PREFACE + _GREETING)
    receivers = {True: envoy.data_received, False: picker.data_received}
    reads = iter([(receivers[of_envoy], data) for of_envoy, data in script])
    done: asyncio.Future[None] = loop.create_future()

    def step() -> None:
        for receive, data in reads:
            receive(data)
            # After the flushes that this read has caused.
            loop.call_soon(step)
            return
        done.set_result(None)

    await asyncio.sleep(0)
    collector.settle()
    began = time.process_time()
    step()
    await done
    spent = time.process_time() - began
    if time.monotonic() - began_at > CHECK_INTERVAL / 2:
        return inf
    counted = counters.pool(POOL).outcomes[Outcome.STEERED]
    if counted != requests or service.open_sessions or service.account.in_flight[KEY]:
        raise AssertionError(f"{counted} of {requests} were steered")
    service.close()
    await pickers.close()
    return spent


def measure(chunks: int, batches: int = 15, requests: int = 300) -> float:
    """CPU time in µs per request whose response has `chunks` chunks, of the best batch."""
    script = [
        step
        for number in range(requests)
        for step in _steps(chunks, 2 * number + 1, _FIRST_PICK + 2 * number)
    ]
    return 1e6 * min(uvloop.run(_batch(script, requests)) for _ in range(batches)) / requests


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    batches = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    short, long = measure(2, batches), measure(102, batches, 20)
    print(f"{short:.2f} µs per request, {(long - short) / 100:.3f} µs per chunk")
