"""A picker that keeps its worker busy with nothing: what the requests of another pool get of the worker."""

from dataclasses import replace

import pytest

from epp_client.data_plane.session import Session
from epp_client.errors import Reason
from epp_client.picker.client import PROCESS
from epp_client.picker.health import Health
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.snapshot import PickerTarget
from epp_client.relay.exchange import Exchange
from epp_client.relay.growth import NOTHING
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.protocol import WORK
from testbed.process import Process

from ..relay.conversation import request_headers, snapshot
from .babbler import nothing
from .test_hostile_pickers import POOL, POST, Envoy, Rig, pick, rig, until

LOUD = "default/loud"
STREAMS = 2000
REQUESTS = 20
TURNS = 100
"""Turns of the event loop that one request may take: Envoy's end and the picker's are in this process. It
takes some 20, and some 30 of the shorter ones of compiled code. Without a bound one was 10 000 messages."""


async def add_loud_pool(made: Rig, address: str) -> None:
    """A second pool, whose picker is at `address`."""
    tls = ClientTls(mode=TlsMode.PLAINTEXT).model_dump()
    loud = snapshot(tls=tls, pick_timeout=600, connect_timeout=20)
    name = PoolName("default", "loud")
    loud = replace(
        loud, pool=replace(loud.pool, name=name), picker=PickerTarget((address,), "loud")
    )
    made.store.adopt([loud], [])
    await until(lambda: list(made.pickers.states()[LOUD].values()) == [Health.UNKNOWN])


def ask_loud(made: Rig) -> Envoy:
    """One more stream to the loud picker, of a request that is still being sent."""
    envoy = Envoy()
    envoy.events = made.service.accept(envoy, PROCESS, {"x-inference-pool": LOUD})
    envoy.events.message_received(request_headers())
    return envoy


def exchange_of(call: Envoy) -> Exchange:
    """The exchange of one of Envoy's streams."""
    assert isinstance(call.events, Session)
    return call.events._exchange


@pytest.mark.timeout(180)
async def test_two_thousand_endless_streams_of_nothing_do_not_starve_another_pool() -> None:
    """By counting what the worker looks at for the loud picker while it serves one request of the quiet
    one: of a read of 256 KiB that was ten thousand messages a turn."""
    babbler, ready = await Process.python("tests.data_plane.babbler")
    try:
        async with rig(pick_timeout=60.0, max_body_growth=1 << 20) as made:
            made.behave = pick
            await add_loud_pool(made, ready["address"])
            calls = [ask_loud(made) for _ in range(STREAMS)]
            exchanges = [exchange_of(call) for call in calls]

            def heard() -> int:
                return sum(exchange.state.growth.nothings for exchange in exchanges)

            await until(lambda: heard() > STREAMS)
            for _ in range(REQUESTS):
                before = heard()
                await made.ask(*POST)
                assert heard() - before <= TURNS * WORK
            assert made.counters.pool(POOL).failed_open == {}
            for call in calls:
                call.events.half_closed()
    finally:
        await babbler.kill()


@pytest.mark.timeout(180)
async def test_an_exchange_whose_picker_says_nothing_without_end_is_ended_with_a_reason() -> None:
    babbler, ready = await Process.python("tests.data_plane.babbler")
    try:
        async with rig() as made:
            await add_loud_pool(made, ready["address"])
            calls = [ask_loud(made) for _ in range(20)]
            seen = made.counters.pool(LOUD)
            await until(lambda: all(exchange_of(call).result.outcome for call in calls))
            for call in calls:
                call.events.half_closed()
            assert seen.failed_open == {Reason.PICKER_PROTOCOL: 20}
    finally:
        await babbler.kill()


def test_the_babble_is_nothing() -> None:
    assert len(nothing()) <= NOTHING
