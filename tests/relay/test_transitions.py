"""The transition table says what an exchange really does: all of it, and nothing else."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from epp_client.errors import Reason
from epp_client.ext_proc.messages import read_message, read_reply
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.settings import EvictionMode, ResponseMode
from epp_client.relay.actions import Action, Arm, Disarm, Timer
from epp_client.relay.exchange import Exchange
from epp_client.relay.phases import ExchangePhase, Signal
from epp_client.relay.transitions import (
    FROM_ENVOY,
    FROM_PICKER,
    ON_MESSAGE,
    ON_REPLY,
    ON_SIGNAL,
    SIGNALS,
)

from .conversation import (
    OUTSIDE,
    A,
    answered,
    answering,
    body,
    conversation,
    immediate,
    picked,
    request_headers,
    response_headers,
    snapshot,
    streamed,
    table,
    trailers,
    unchanged,
)

Step = tuple[str, ExchangePhase, ExchangePhase]

NO_BODY = b"\x5a\x02\x10\x04"
"""ProcessingRequest.protocol_config of an Envoy that keeps the body to itself."""
OF_ENVOY = (
    request_headers(),
    request_headers(end=True),
    request_headers() + NO_BODY,
    request_headers(connection="upgrade", upgrade="websocket"),
    body(b"abc"),
    body(b"abc", end=True),
    trailers(),
    response_headers(),
    response_headers(end=True),
    body(b"xyz", response=True),
    body(b"xyz", end=True, response=True),
    trailers(response=True),
)
OF_PICKER = (
    picked(A),
    picked(OUTSIDE),
    picked(None),
    streamed(b"abc"),
    streamed(b"abc", end=True),
    streamed(b"xyz", end=True, response=True),
    # Its metadata is broken.
    streamed(b"abc") + b"\x42\x02\xff\xff",
    unchanged(),
    unchanged(response=True),
    answered("request_trailers"),
    answered("response_headers"),
    answered("response_trailers"),
    immediate(429),
    immediate(999),
    answering("headers"),
    answering("headers", end=True),
    answering("body"),
    answering("body", end=True),
)
EVENTS: tuple[bytes | Signal | Timer, ...] = (*OF_ENVOY, *OF_PICKER, *Signal, *Timer)
BEGINNINGS: tuple[tuple[bytes | Signal | Timer, ...], ...] = (
    (),
    (request_headers(),),
    (request_headers(end=True),),
    (request_headers(connection="upgrade", upgrade="websocket"),),
    (request_headers(connection="upgrade", upgrade="websocket"), picked(OUTSIDE), body(b"abc")),
    (request_headers(), picked(A)),
    (request_headers(), picked(A), body(b"abc")),
    (request_headers(), picked(A), Timer.END),
    (request_headers(), picked(A), streamed(b"abc", end=True)),
    (request_headers(), picked(A), Timer.END, body(b"abc"), Signal.PICKER_STALLED),
    (
        request_headers(connection="upgrade", upgrade="websocket"),
        *(picked(OUTSIDE), body(b"abc"), body(b"abc")),
    ),
    (request_headers(end=True), Signal.PICKER_DIED, Signal.PICKER_DIED, picked(OUTSIDE)),
    (request_headers() + NO_BODY,),
    # One quarter of the deadline is left.
    (request_headers(), *[Timer.PICK] * 4),
    (request_headers(), picked(OUTSIDE)),
    (request_headers(), picked(OUTSIDE), body(b"abc"), Signal.PICKER_ENDED),
    (request_headers(), picked(OUTSIDE), body(b"abc"), body(b"abc"), Signal.PICKER_ENDED),
    (request_headers(), Signal.PICKER_DIED, Signal.PICKER_DIED, picked(OUTSIDE)),
)
"""Where a walk begins, so that it gets far in few steps."""
SIGNAL_OF = {
    Timer.PICK: Signal.PICK_RANG,
    Timer.ENDPOINT: Signal.ENDPOINT_RANG,
    Timer.RESPONSE: Signal.RESPONSE_RANG,
    Timer.TRAILERS: Signal.TRAILERS_RANG,
    Timer.END: Signal.END_RANG,
}


def declared() -> list[set[Step]]:
    """All that the table allows, beside staying in a phase. One set is one target of one row in one phase:
    any of its kinds of messages may lead there."""
    rows = [({f"envoy {k.name}" for k in kinds}, p, t) for kinds, p, _, t in FROM_ENVOY]
    rows += [({f"picker {k.name}" for k in kinds}, p, t) for kinds, p, _, t in FROM_PICKER]
    rows += [({signal.name for signal in signals}, p, t) for signals, p, _, t in SIGNALS]
    return [
        {(event, phase, target) for event in events}
        for events, phases, targets in rows
        for phase in phases
        for target in targets
        if phase is not target
    ]


class Walk:
    """One exchange to which anything happens, in any order."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.seen: set[Step] = set()
        settings = {
            "response_mode": dice.choice(list(ResponseMode)),
            "eviction": dice.choice(list(EvictionMode)),
            "max_retained_body": dice.choice([8, 1 << 20]),
        }
        mode = dice.choice(list(FailureMode))
        members = dice.choice([table(A), table(OUTSIDE), table()])
        self.pool = snapshot(
            mode, members, dice.random() < 0.95, dice.choice([None, 0]), **settings
        )
        self.exchange: Exchange = conversation(
            self.pool, trailers_expected=dice.random() < 0.5
        ).exchange
        self.armed: set[Timer] = set()

    def happens(self, event: str, act: Callable[[], list[Action]]) -> None:
        before = self.exchange.state.phase
        for action in act():
            if isinstance(action, Arm):
                self.armed.add(action.timer)
            elif isinstance(action, Disarm):
                self.armed.discard(action.timer)
        after = self.exchange.state.phase
        if after is not before:
            self.seen.add((event, before, after))

    def take(self, event: bytes | Signal | Timer) -> None:
        """Let one event happen."""
        if isinstance(event, Signal):
            self.signal(event)
        elif isinstance(event, Timer):
            if event in self.armed:
                self.armed.discard(event)
                self.happens(SIGNAL_OF[event].name, lambda: self.exchange.timer_rang(event))
        elif event in OF_ENVOY:
            self.envoy(event)
        else:
            name = f"picker {read_reply(event).answer.name}"
            self.happens(name, lambda: self.exchange.from_picker(event))

    def envoy(self, raw: bytes) -> None:
        event = f"envoy {read_message(raw).phase.name}"
        self.happens(event, lambda: self.exchange.from_envoy(raw))

    def signal(self, signal: Signal) -> None:
        exchange = self.exchange
        if signal is Signal.POOL_CHANGED:
            members = self.dice.choice([table(A, generation=2), table(OUTSIDE, generation=3)])
            self.pool = replace(self.pool, table=members, acknowledged=self.dice.choice([None, 9]))
            self.happens(signal.name, lambda: exchange.pool_changed(self.pool))
        elif signal is Signal.PICKER_STALLED:
            stalled = not exchange.stalled
            self.happens(signal.name, lambda: exchange.picker_stalled(stalled))
        elif signal is Signal.PICKER_SILENT:
            self.happens(signal.name, exchange.picker_silent)
        elif signal is Signal.PICKER_ENDED:
            self.happens(signal.name, lambda: exchange.picker_closed(None))
        elif signal is Signal.PICKER_FAILED:
            self.happens(signal.name, lambda: exchange.picker_closed(Reason.PICKER_ERROR))
        elif signal is Signal.PICKER_DIED:
            died = Reason.PICKER_UNREACHABLE
            self.happens(signal.name, lambda: exchange.picker_closed(died, died=True))
        elif signal is Signal.ENVOY_CLOSED:
            self.happens(signal.name, exchange.envoy_closed)


@pytest.fixture(scope="module")
def seen() -> set[Step]:
    """What happened in many walks; the same ones each time."""
    seen: set[Step] = set()
    dice = random.Random(1)
    for _ in range(28_000):
        walk = Walk(dice)
        for event in dice.choice(BEGINNINGS):
            walk.take(event)
        # A few kinds of events in a walk, so that the rarer sequences come up as well.
        events = dice.choices(EVENTS, k=dice.randrange(2, 8))
        for _ in range(dice.randrange(15)):
            walk.take(dice.choice(events))
        seen |= walk.seen
    return seen


def test_an_exchange_goes_nowhere_that_the_table_does_not_name(seen: set[Step]) -> None:
    assert seen - set().union(*declared()) == set()


def test_the_table_names_nothing_that_never_happens(seen: set[Step]) -> None:
    assert [steps for steps in declared() if not steps & seen] == []


def test_nothing_happens_to_a_closed_exchange() -> None:
    closed = ExchangePhase.CLOSED
    handlers = {id(row[closed]) for row in ON_MESSAGE}
    handlers |= {id(row[closed]) for row in ON_REPLY} | {id(row[closed]) for row in ON_SIGNAL}
    assert len(handlers) == 1


def test_no_two_rows_are_about_the_same() -> None:
    cells = [(str(k), p) for kinds, phases, _, _ in FROM_ENVOY for k in kinds for p in phases]
    cells += [(repr(k), p) for kinds, phases, _, _ in FROM_PICKER for k in kinds for p in phases]
    cells += [(s.name, p) for signals, phases, _, _ in SIGNALS for s in signals for p in phases]
    assert len(cells) == len(set(cells))
