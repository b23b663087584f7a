"""A picker that says more than it was told, or nothing without end: how far it gets."""

import pytest

from epp_client.errors import Reason
from epp_client.pool.inference_pool import FailureMode
from epp_client.relay.actions import CancelPicker, Timer
from epp_client.relay.growth import MAX_NOTHINGS, MESSAGE_OVERHEAD
from epp_client.relay.outcome import Outcome

from .conversation import (
    B,
    Envoy,
    answered,
    body,
    conversation,
    picked,
    request_headers,
    response_headers,
    snapshot,
    streamed,
    unchanged,
)

BOUND = 100_000
PIECE = b"y" * 10_000
ENOUGH = BOUND // len(PIECE)
POST = (request_headers(), body(b"hello", end=True))


def talking(mode: FailureMode = FailureMode.FAIL_CLOSE, budget: int = 1 << 30) -> Envoy:
    return conversation(snapshot(mode, max_body_growth=BOUND), budget=budget)


def cut_off(envoy: Envoy) -> bool:
    """Whether the picker's stream was ended."""
    return any(isinstance(action, CancelPicker) for action in envoy.actions)


def test_a_request_grows_by_the_bound_and_no_further() -> None:
    envoy = talking()
    envoy.send(*POST)
    envoy.picker(picked(B))
    for _ in range(ENOUGH - 2):
        envoy.picker(streamed(PIECE))
    assert not cut_off(envoy)
    for _ in range(ENOUGH):
        envoy.picker(streamed(PIECE))
    assert cut_off(envoy)
    assert len(envoy.request.body) <= BOUND + len(PIECE)
    assert (envoy.error, envoy.exchange.result.hint) == (Reason.PICKER_PROTOCOL, "max-body-growth")
    assert envoy.exchange.state.request.originals.budget.used == 0


def test_before_the_pick_the_failure_mode_acts() -> None:
    envoy = talking(FailureMode.FAIL_OPEN)
    envoy.send(*POST)
    for _ in range(2 * ENOUGH):
        envoy.picker(streamed(PIECE))
    assert envoy.exchange.result.outcome is Outcome.FAILED_OPEN
    assert envoy.exchange.result.reason is Reason.PICKER_PROTOCOL
    assert envoy.request.body == b"hello"


def test_a_response_goes_on_without_the_picker() -> None:
    envoy = talking()
    envoy.send(request_headers(end=True))
    envoy.picker(picked(B))
    envoy.send(response_headers(), body(b"one", response=True))
    envoy.picker(answered("response_headers"))
    for _ in range(2 * ENOUGH):
        envoy.picker(streamed(PIECE, response=True))
    assert cut_off(envoy)
    assert len(envoy.response.body) <= BOUND + len(PIECE)
    envoy.send(body(b"the end", end=True, response=True))
    assert envoy.response.ended
    assert envoy.response.body.endswith(b"the end")
    assert envoy.exchange.result.passthrough is Reason.PICKER_PROTOCOL


@pytest.mark.parametrize("answer", [streamed, lambda piece: unchanged()])
def test_an_honest_picker_may_relay_without_end(answer: object) -> None:
    assert callable(answer)
    envoy = talking()
    envoy.send(request_headers())
    envoy.picker(picked(B))
    for _ in range(5 * ENOUGH):
        envoy.send(body(PIECE))
        envoy.picker(answer(PIECE))
    envoy.send(body(b"", end=True))
    envoy.picker(streamed(b"", end=True))
    assert envoy.request.ended
    assert len(envoy.request.body) == 5 * ENOUGH * len(PIECE)


def test_a_body_that_is_given_back_at_its_end_alone_is_no_growth() -> None:
    envoy = talking()
    envoy.send(request_headers())
    for _ in range(5 * ENOUGH):
        envoy.send(body(PIECE))
    envoy.send(body(b"", end=True))
    envoy.picker(picked(B))
    for _ in range(5 * ENOUGH):
        envoy.picker(streamed(PIECE))
    envoy.picker(streamed(b"", end=True))
    assert envoy.request.ended
    assert not cut_off(envoy)


NOTHING = {
    "empty bodies": streamed(b""),
    "empty bodies of a response": streamed(b"", response=True),
    "a byte at a time": streamed(b"x"),
    "header answers again": answered("request_headers"),
    "trailers that nobody sent": answered("request_trailers"),
    "unchanged bodies": unchanged(),
}


@pytest.mark.parametrize("when", ["before the pick", "after it", "passed by", "observed"])
@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
def test_a_picker_that_says_nothing_without_end_is_cut_off(nothing: bytes, when: str) -> None:
    mode = "observe" if when == "observed" else "relay"
    envoy = conversation(snapshot(max_body_growth=BOUND, response_mode=mode))
    envoy.send(*POST)
    if when != "before the pick":
        envoy.picker(picked(B), streamed(b"hello", end=True))
        envoy.send(response_headers(content_type="text/event-stream"))
        if when == "passed by":
            envoy.silence(Timer.RESPONSE)
            assert envoy.exchange.result.passthrough is Reason.PICKER_TIMEOUT
    said = 0
    while not cut_off(envoy):
        envoy.picker(nothing)
        said += 1
        assert said <= 2 * BOUND // MESSAGE_OVERHEAD
    if when != "before the pick":
        envoy.send(body(b"answer", end=True, response=True))
        assert envoy.response.ended


def test_what_all_pickers_may_add_together_is_bounded() -> None:
    envoy = talking(budget=BOUND // 2)
    envoy.send(*POST)
    envoy.picker(picked(B))
    for _ in range(ENOUGH):
        envoy.picker(streamed(PIECE))
    assert envoy.error == Reason.OVERLOADED
    assert envoy.exchange.state.request.originals.budget.used == 0


def test_a_picker_that_is_asked_anew_begins_anew() -> None:
    envoy = talking()
    envoy.send(*POST)
    for _ in range(2):
        for _ in range(ENOUGH - 2):
            envoy.picker(streamed(PIECE))
        envoy.do(envoy.exchange.picker_closed(Reason.PICKER_UNREACHABLE, died=True))
    envoy.picker(picked(B), streamed(b"hello", end=True))
    assert envoy.destination == B
    envoy.do(envoy.exchange.envoy_closed())
    assert envoy.exchange.state.request.originals.budget.used == 0


def test_answers_of_nothing_end_sooner() -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(*POST)
    for _ in range(len(POST) + MAX_NOTHINGS):
        envoy.picker(streamed(b""))
    assert not cut_off(envoy)
    envoy.picker(streamed(b""))
    assert envoy.error == Reason.PICKER_PROTOCOL


def test_a_picker_may_answer_each_chunk_with_nothing_until_the_end() -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(request_headers())
    envoy.picker(picked(B))
    for _ in range(3 * MAX_NOTHINGS):
        envoy.send(body(b"x"))
        envoy.picker(streamed(b""))
    envoy.send(body(b"", end=True))
    envoy.picker(streamed(b"all of it", end=True))
    assert envoy.request.body == b"all of it"
