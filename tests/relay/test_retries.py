"""A picker's stream that dies is opened anew, for as long as nothing of its answer was released."""

from dataclasses import replace

import pytest

from epp_client.errors import Reason
from epp_client.pool.inference_pool import FailureMode
from epp_client.relay.actions import Timer
from epp_client.relay.outcome import Outcome
from epp_client.relay.request_phase import MAX_ATTEMPTS

from .conversation import (
    OUTSIDE,
    A,
    B,
    Envoy,
    answered,
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
)

OPEN, CLOSE = FailureMode.FAIL_OPEN, FailureMode.FAIL_CLOSE
POST = (request_headers(), body(b"hello "), body(b"world"), body(b"", end=True))


def die(envoy: Envoy, reason: Reason = Reason.PICKER_UNREACHABLE) -> None:
    envoy.do(envoy.exchange.picker_closed(reason, died=True))


def asked(envoy: Envoy) -> list[str | None]:
    return [message.WhichOneof("request") for message in envoy.to_picker]


BEFORE_THE_RELEASE = {
    "nothing": [],
    "half a body": [streamed(b"hel")],
    "the whole body and no header answer": [streamed(b"HELLO", end=True)],
    "the header answer": [picked(B)],
    "the header answer and half a body": [picked(B), streamed(b"bon")],
}


@pytest.mark.parametrize("mode", [OPEN, CLOSE])
@pytest.mark.parametrize("said", BEFORE_THE_RELEASE.values(), ids=BEFORE_THE_RELEASE.keys())
def test_whatever_it_had_said_the_next_one_is_asked_the_whole_request(
    said: list[bytes], mode: FailureMode
) -> None:
    envoy = conversation(snapshot(mode))
    envoy.send(*POST)
    envoy.picker(*said)
    die(envoy)
    assert envoy.opened == 2
    assert asked(envoy) == ["request_headers", *["request_body"] * 3]
    assert b"".join(m.request_body.body for m in envoy.to_picker) == b"hello world"
    assert Timer.PICK in envoy.armed, "the deadline is the first one's"
    envoy.picker(picked(A), streamed(b"hello world", end=True))
    assert (envoy.exchange.result.outcome, envoy.destination) == (Outcome.STEERED, A)
    assert envoy.request.body == b"hello world"
    assert envoy.exchange.retries == 1


def test_a_request_still_being_sent_goes_on_to_the_next_one() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(request_headers(), body(b"one "))
    die(envoy)
    envoy.send(body(b"two"), body(b"", end=True))
    assert b"".join(m.request_body.body for m in envoy.to_picker) == b"one two"
    envoy.picker(picked(B), streamed(b"one two", end=True))
    assert envoy.request.body == b"one two"


def test_trailers_are_asked_again_behind_the_synthetic_end() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(request_headers(), body(b"hello"), trailers())
    first = asked(envoy)
    die(envoy)
    assert (
        asked(envoy)
        == first
        == ["request_headers", "request_body", "request_body", "request_trailers"]
    )
    envoy.picker(picked(B), streamed(b"hello", end=True))
    envoy.ring(Timer.TRAILERS)
    assert envoy.request.body == b"hello"
    assert envoy.request.ended


def test_a_pick_that_waits_for_its_endpoint_is_asked_for_again() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(*POST)
    envoy.picker(picked(OUTSIDE), streamed(b"hello world", end=True))
    assert Timer.ENDPOINT in envoy.armed
    die(envoy)
    assert envoy.armed == {Timer.PICK}
    envoy.picker(picked(B), streamed(b"hello world", end=True))
    assert envoy.destination == B


@pytest.mark.parametrize("mode", [OPEN, CLOSE])
def test_tries_are_counted(mode: FailureMode) -> None:
    envoy = conversation(snapshot(mode))
    envoy.send(*POST)
    for _ in range(MAX_ATTEMPTS + 3):
        die(envoy)
    assert envoy.opened == MAX_ATTEMPTS
    assert envoy.exchange.result.reason is Reason.PICKER_UNREACHABLE
    assert (envoy.error is None) is (mode is OPEN)


def test_nothing_is_asked_twice_after_the_deadline() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(*POST)
    envoy.ring(Timer.PICK)
    die(envoy)
    assert (envoy.opened, envoy.error) == (1, "picker_timeout")


def test_a_refusal_is_final() -> None:
    envoy = conversation(snapshot(OPEN))
    envoy.send(*POST)
    envoy.picker(immediate(503))
    die(envoy)
    assert envoy.opened == 1
    assert envoy.exchange.result.outcome is Outcome.REFUSED_BY_PICKER


def test_an_answer_that_was_released_is_final() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(request_headers(), body(b"one"))
    envoy.picker(picked(B), streamed(b"one"))
    envoy.ring(Timer.END)
    assert envoy.request.headers is not None
    die(envoy)
    assert envoy.opened == 1
    envoy.send(body(b"two", end=True), response_headers(end=True))
    assert envoy.request.body == b"onetwo"
    assert envoy.response.ended


def test_a_body_that_is_not_whole_any_more_is_not_asked_about_again() -> None:
    envoy = conversation(snapshot(OPEN, max_retained_body=8))
    envoy.send(*POST)
    die(envoy)
    assert (envoy.opened, envoy.error) == (1, "body_not_retained")
    assert envoy.exchange.request_lost


@pytest.mark.parametrize("begun", [False, True])
def test_a_body_with_a_hole_does_not_arrive_even_if_the_upstream_answers_already(
    begun: bool,
) -> None:
    envoy = conversation(snapshot(OPEN, max_retained_body=8))
    envoy.send(request_headers())
    envoy.picker(picked(B))
    envoy.send(body(b"more than is kept"), response_headers())
    if begun:
        envoy.picker(answered("response_headers"))
    die(envoy)
    assert (envoy.failed, envoy.error) == ((True, None) if begun else (False, "body_not_retained"))
    assert envoy.request.body == b""
    assert envoy.exchange.result.reason is Reason.BODY_NOT_RETAINED


def test_a_clean_close_is_no_accident() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(*POST)
    envoy.do(envoy.exchange.picker_closed(None))
    assert (envoy.opened, envoy.error) == (1, "picker_closed")


def test_a_picker_that_takes_nothing_more_has_a_deadline() -> None:
    envoy = conversation(snapshot(OPEN))
    envoy.send(request_headers(), body(b"hello"))
    envoy.do(envoy.exchange.picker_stalled(True))
    envoy.do(envoy.exchange.picker_stalled(False))
    envoy.ring(Timer.PICK)
    assert envoy.exchange.result.outcome is None, "it only counts how long nothing moves"
    envoy.do(envoy.exchange.picker_stalled(True))
    envoy.ring(Timer.PICK)
    envoy.send(body(b" world", end=True))
    assert envoy.exchange.result.reason is Reason.PICKER_TIMEOUT
    assert envoy.request.body == b"hello world"


def test_a_picker_that_stalls_after_its_pick_has_a_deadline() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(request_headers())
    envoy.picker(picked(B))
    envoy.ring(Timer.END)
    envoy.send(body(b"hello"))
    envoy.do(envoy.exchange.picker_stalled(True))
    envoy.ring(Timer.PICK)
    assert envoy.request.body == b"hello"
    envoy.send(body(b" world", end=True))
    assert (envoy.destination, envoy.request.body, envoy.request.ended) == (B, b"hello world", True)


def test_a_stall_outlasts_the_wait_for_an_endpoint() -> None:
    behind = snapshot(CLOSE, acknowledged=0)
    envoy = conversation(behind)
    envoy.send(request_headers())
    envoy.picker(picked(B))
    envoy.do(envoy.exchange.picker_stalled(True))
    assert envoy.armed == {Timer.ENDPOINT}
    envoy.do(envoy.exchange.pool_changed(replace(behind, acknowledged=1)))
    envoy.ring(Timer.END)
    assert envoy.destination == B
    assert envoy.armed == {Timer.PICK}


def test_the_next_one_has_not_stalled() -> None:
    envoy = conversation(snapshot(OPEN))
    envoy.send(request_headers(), body(b"hello"))
    envoy.do(envoy.exchange.picker_stalled(True))
    die(envoy)
    envoy.ring(Timer.PICK)
    assert envoy.exchange.result.outcome is None, "what it may take, it has from the start"


BABBLE = {
    "no header answer": [],
    "a header answer without a pick": [picked(None)],
}


@pytest.mark.parametrize("first", BABBLE.values(), ids=BABBLE.keys())
@pytest.mark.parametrize(
    ("bound", "budget", "reason"),
    [(1000, 1 << 30, Reason.PICKER_PROTOCOL), (1 << 30, 1000, Reason.OVERLOADED)],
)
def test_gigabytes_before_the_pick_are_bounded(
    first: list[bytes], bound: int, budget: int, reason: Reason
) -> None:
    envoy = conversation(snapshot(OPEN, max_retained_body=bound), budget=budget)
    envoy.send(*POST)
    envoy.picker(*first)
    for _ in range(100):
        envoy.picker(streamed(b"x" * 100))
        assert envoy.exchange.retained < 1300
    assert envoy.exchange.result.reason is reason
    assert envoy.request.body == b"hello world", "the request went on without it"


def test_a_body_too_large_to_hold_back_does_not_wait_for_the_table() -> None:
    envoy = conversation(snapshot(CLOSE, max_retained_body=1000))
    envoy.send(*POST)
    envoy.picker(picked(OUTSIDE))
    for _ in range(20):
        envoy.picker(streamed(b"x" * 100))
    assert envoy.error == "pick_outside_pool"


def test_a_pick_whose_body_is_large_streams_through() -> None:
    behind = snapshot(CLOSE, table(A, B), max_retained_body=1000)
    envoy = conversation(behind)
    envoy.send(*POST)
    envoy.picker(picked(B))
    for _ in range(20):
        envoy.picker(streamed(b"x" * 100))
        assert envoy.exchange.retained < 1300
    envoy.picker(streamed(b"", end=True))
    assert envoy.destination == B
    assert envoy.request.body == b"x" * 2000
