"""Durations are exact on the event loop of the product, whose own clock has whole milliseconds and stands
still while it carries out what it has received."""

import time

import uvloop

from epp_client.data_plane.gaps import Gaps
from epp_client.metrics.counters import PoolCounters
from epp_client.picker.client import PROCESS
from tests.data_plane.test_admission import EnvoyStream, service
from tests.relay.conversation import body, request_headers

SPAN = 0.0003


def spend() -> None:
    """Time that is less than a millisecond."""
    until = time.monotonic() + SPAN
    while time.monotonic() < until:
        pass


async def one_exchange() -> float:
    made = service()
    session = made.accept(EnvoyStream(), PROCESS, {"x-inference-pool": "default/llama"})
    session.message_received(request_headers())
    spend()
    session.message_received(body(b"hello", end=True))
    session.half_closed()
    await made.pickers.close()
    return made.account.counters.pools["default/llama"].exchange_seconds


async def one_gap() -> float:
    counters = PoolCounters()
    gaps = Gaps(counters)
    gaps.received(1)
    spend()
    gaps.received(2)
    return counters.gap_seconds


def test_of_an_exchange() -> None:
    assert uvloop.run(one_exchange()) >= SPAN


def test_of_a_gap() -> None:
    assert uvloop.run(one_gap()) >= SPAN
