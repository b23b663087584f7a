"""Times the Exchange, the table and the codec with pytest-benchmark.

`make bench-micro` runs the compiled modules, `pytest benchmarks/micro` plain Python.
"""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.churn import changed
from benchmarks.micro.conversation import KEY, conversation, snapshot
from epp_client.ext_proc.messages import Answer, read_message, read_reply
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from epp_client.ext_proc.replies import streamed_body
from epp_client.picker.fallback import MAX_ENDPOINTS, InFlight, local_pick
from epp_client.picker.pick import Pick, judge
from epp_client.pool.delta import apply, difference
from epp_client.relay.actions import ToEnvoy
from epp_client.relay.exchange import Exchange
from epp_client.relay.retention import RetentionBudget
from epp_client.wire.http2.client import ClientConnection
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection
from epp_client.wire.status import Status
from epp_client.wire.transport import Stream, StreamEvents


@pytest.mark.parametrize("chunks", [1, 100])
def test_exchange(benchmark: Any, chunks: int) -> None:
    """All decisions about one request: every message in, every action out."""
    said, pool = conversation(chunks), snapshot()
    budget = RetentionBudget(1 << 30)

    def relayed() -> int:
        exchange = Exchange(pool, local_pick=lambda _, __: (KEY,), budget=budget)
        sent = 0
        for of_envoy, raw in said:
            actions = exchange.from_envoy(raw) if of_envoy else exchange.from_picker(raw)
            sent += sum(isinstance(action, ToEnvoy) for action in actions)
        exchange.envoy_closed()
        return sent

    assert benchmark(relayed) == 4 + chunks


@pytest.mark.parametrize("size", [60, 640, 65_536])
def test_read_a_body_message_and_its_answer(benchmark: Any, size: int) -> None:
    message = ProcessingRequest()
    message.response_body.body = b"x" * size
    raw, answer = (
        message.SerializeToString(),
        streamed_body(Answer.RESPONSE_BODY, b"x" * size, False),
    )

    def read() -> int:
        return read_message(raw).end + read_reply(answer).end

    assert benchmark(read) > size


def test_judge_a_pick_among_10_000(benchmark: Any) -> None:
    pool = snapshot(10_000)
    assert benchmark(judge, Pick(f"{KEY},10.0.9.9:8000"), pool, None).keys[0] == KEY


def test_local_pick_among_10_000(benchmark: Any) -> None:
    pool, in_flight = snapshot(10_000), InFlight()
    picked = benchmark(local_pick, pool, None, in_flight, (), lambda n: n // 2)
    assert len(picked) == MAX_ENDPOINTS


def test_one_change_among_10_000_told_to_a_worker(benchmark: Any) -> None:
    before = snapshot(10_000)
    after = replace(before, table=changed(before.table, 7))

    def told() -> int:
        return apply(before, difference(before, after)).table.generation

    assert benchmark(told) == after.table.generation


class Owner(StreamEvents):
    """Owner of a stream that counts messages."""

    def __init__(self) -> None:
        self.messages = 0

    def message_received(self, message: bytes) -> None:
        """Count."""
        self.messages += 1

    def half_closed(self) -> None:
        """Nothing."""

    def closed(self, status: Status) -> None:
        """Nothing."""

    def pause_writing(self) -> None:
        """Nothing."""

    def resume_writing(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("size", [60, 640, 16_000])
def test_codec(benchmark: Any, size: int) -> None:
    """A hundred messages in each direction through both ends of a connection in memory."""
    accepted: list[Stream] = []
    server_owner, client_owner = Owner(), Owner()

    def accept(stream: Stream, path: str, metadata: Any) -> Owner:
        accepted.append(stream)
        return server_owner

    def report(error: Exception) -> None:
        raise error

    server = ServerConnection(accept, lambda: 0.0, Shell(), report)
    client = ClientConnection("http", "picker", lambda: 0.0, Shell(), report)

    def exchange() -> None:
        to_server, to_client = client.take(), server.take()
        while to_server or to_client:
            server.receive(to_server)
            client.receive(to_client)
            to_server, to_client = client.take(), server.take()

    exchange()
    stream = client.open("/method", {}, client_owner)
    exchange()
    message = b"x" * size

    def hundred() -> None:
        for _ in range(100):
            stream.send(message)
            exchange()
            accepted[0].send(message)
            exchange()

    benchmark(hundred)
    assert server_owner.messages == client_owner.messages >= 100
