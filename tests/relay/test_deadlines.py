"""What has a deadline, from when it runs, and what becomes of the request and of the response then."""

from collections.abc import Callable
from typing import Any

import pytest

from epp_client.errors import Reason
from epp_client.picker.health import JITTER, pace
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.settings import PoolSettings
from epp_client.relay.actions import FinishEnvoy, Timer
from epp_client.relay.outcome import Outcome
from epp_client.relay.state import QUARTERS

from .conversation import (
    A,
    B,
    Envoy,
    answered,
    answering,
    body,
    conversation,
    picked,
    request_headers,
    response_headers,
    snapshot,
    streamed,
    table,
    trailers,
)

SSE: dict[str, Any] = {"content_type": "text/event-stream"}
JSON: dict[str, Any] = {"content_type": "application/json"}


# --- a request that is still being sent ---


@pytest.mark.parametrize("mode", FailureMode)
def test_an_open_request_that_stands_still_ends_by_the_failure_mode(mode: FailureMode) -> None:
    envoy = conversation(snapshot(mode))
    envoy.send(request_headers(), body(b"one"))
    envoy.silence(Timer.PICK)
    if mode is FailureMode.FAIL_OPEN:
        envoy.ring(Timer.END)
        assert envoy.exchange.result.outcome is Outcome.FAILED_OPEN
        assert (envoy.destination, envoy.request.body) == (A, b"one")
        envoy.send(body(b"two", end=True))
        assert (envoy.request.body, envoy.request.ended) == (b"onetwo", True)
    else:
        assert envoy.error == Reason.PICKER_TIMEOUT
    assert envoy.exchange.result.failure is Reason.PICKER_TIMEOUT


def test_an_open_request_has_its_deadline_from_its_headers_on() -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(request_headers())
    envoy.silence(Timer.PICK)
    assert envoy.error == Reason.PICKER_TIMEOUT


@pytest.mark.parametrize("who", ["Envoy", "the picker"])
def test_whatever_moves_puts_the_deadline_of_an_open_request_off(who: str) -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(request_headers(), body(b"one"))
    for _ in range(5):
        for _ in range(QUARTERS):
            envoy.ring(Timer.PICK)
        if who == "Envoy":
            envoy.send(body(b"more"))
        else:
            envoy.picker(streamed(b"on"))
    assert envoy.exchange.result.outcome is None
    envoy.silence(Timer.PICK)
    assert envoy.error == Reason.PICKER_TIMEOUT


def test_a_picker_that_drips_after_the_end_of_the_request_puts_nothing_off() -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(request_headers(), body(b"one", end=True))
    envoy.picker(streamed(b"o"), streamed(b"n"))
    envoy.ring(Timer.PICK)
    assert envoy.error == Reason.PICKER_TIMEOUT


@pytest.mark.parametrize("response", ["none", "flowing"])
def test_a_picker_that_withholds_the_body_of_an_open_request_has_a_deadline(response: str) -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(request_headers())
    envoy.picker(picked(B))
    envoy.ring(Timer.END)
    envoy.send(body(b"one"))
    if response == "flowing":
        envoy.send(response_headers())
        envoy.picker(answered("response_headers"))
    for _ in range(QUARTERS + 1):
        if response == "flowing":
            envoy.send(body(b"a", response=True))
            envoy.picker(streamed(b"a", response=True))
        envoy.ring(Timer.PICK)
    assert (envoy.destination, envoy.request.body) == (B, b"one")
    envoy.send(body(b"two", end=True))
    assert (envoy.request.body, envoy.request.ended) == (b"onetwo", True)


def test_an_open_request_that_the_picker_has_answered_so_far_may_be_silent_for_ever() -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(request_headers())
    envoy.picker(picked(B))
    envoy.ring(Timer.END)
    envoy.send(body(b"one"))
    envoy.picker(streamed(b"one"))
    for _ in range(3):
        envoy.silence(Timer.PICK)
    envoy.send(body(b"two"))
    envoy.picker(streamed(b"two"))
    assert envoy.request.body == b"onetwo"
    envoy.send(body(b"three"))
    envoy.silence(Timer.PICK)
    assert envoy.request.body == b"onetwothree", "the deadline began anew with what is owed"


# --- a response ---


def steered(**settings: Any) -> Envoy:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE, **settings))
    envoy.send(request_headers(end=True))
    envoy.picker(picked(B))
    return envoy


def test_a_plain_body_that_is_answered_at_its_end_alone_may_take_its_time() -> None:
    envoy = steered()
    envoy.send(response_headers(**JSON))
    envoy.picker(answered("response_headers"))
    for piece in (b"one", b"two"):
        envoy.send(body(piece, response=True))
        envoy.silence(Timer.RESPONSE)
    envoy.send(body(b"", end=True, response=True))
    for _ in range(QUARTERS):
        envoy.ring(Timer.RESPONSE)
    envoy.picker(streamed(b"changed", end=True, response=True))
    assert (envoy.response.body, envoy.response.ended) == (b"changed", True)
    assert envoy.exchange.result.passthrough is None


def test_a_plain_body_that_is_never_answered_has_its_deadline_from_its_end() -> None:
    envoy = steered()
    envoy.send(response_headers(**JSON))
    envoy.picker(answered("response_headers"))
    envoy.send(body(b"one", response=True), body(b"two", end=True, response=True))
    envoy.silence(Timer.RESPONSE)
    assert (envoy.response.body, envoy.response.ended) == (b"onetwo", True)
    assert envoy.exchange.result.passthrough is Reason.PICKER_TIMEOUT


def test_grpc_answers_that_are_answered_with_their_trailers_may_take_their_time() -> None:
    envoy = steered()
    envoy.send(response_headers(content_type="application/grpc"))
    envoy.picker(answered("response_headers"))
    envoy.send(body(b"one", response=True))
    envoy.silence(Timer.RESPONSE)
    envoy.send(trailers(response=True))
    envoy.picker(streamed(b"changed", response=True), answered("response_trailers"))
    assert (envoy.response.body, envoy.response.ended) == (b"changed", True)


@pytest.mark.parametrize("kind", ["an event stream", "answered chunk by chunk so far"])
def test_an_answer_to_a_chunk_is_owed_when_chunks_are_answered_one_by_one(kind: str) -> None:
    events = kind == "an event stream"
    envoy = steered()
    envoy.send(response_headers(**SSE if events else JSON))
    envoy.picker(answered("response_headers"))
    if not events:
        envoy.send(body(b"zero", response=True))
        envoy.picker(streamed(b"zero", response=True))
    envoy.response.body = b""
    envoy.send(body(b"one", response=True))
    envoy.silence(Timer.RESPONSE)
    assert envoy.response.body == b"one"
    assert envoy.exchange.result.passthrough is Reason.PICKER_TIMEOUT


def test_a_response_whose_headers_are_not_answered_has_a_deadline() -> None:
    envoy = steered()
    envoy.send(response_headers(**JSON), body(b"one", response=True))
    envoy.silence(Timer.RESPONSE)
    assert envoy.response.body == b"one"


def test_a_picker_that_takes_nothing_of_a_plain_body_has_a_deadline() -> None:
    envoy = steered()
    envoy.send(response_headers(**JSON))
    envoy.picker(answered("response_headers"))
    envoy.send(body(b"one", response=True))
    envoy.do(envoy.exchange.picker_stalled(True))
    envoy.silence(Timer.RESPONSE)
    assert envoy.response.body == b"one"


@pytest.mark.parametrize("who", ["Envoy", "the picker"])
def test_whatever_moves_puts_the_deadline_of_a_response_off(who: str) -> None:
    envoy = steered()
    envoy.send(response_headers(**SSE))
    envoy.picker(answered("response_headers"))
    envoy.send(body(b"one two three four five six", response=True))
    for word in (b"one", b" two", b" three"):
        for _ in range(QUARTERS):
            envoy.ring(Timer.RESPONSE)
        if who == "Envoy":
            envoy.send(body(b"more", response=True))
        else:
            envoy.picker(streamed(word, response=True))
    assert envoy.exchange.result.passthrough is None
    envoy.silence(Timer.RESPONSE)
    assert envoy.exchange.result.passthrough is Reason.PICKER_TIMEOUT


def test_what_is_answered_in_time_arms_no_timer_per_chunk() -> None:
    envoy = steered()
    envoy.send(response_headers(**SSE))
    envoy.picker(answered("response_headers"))
    before = len(envoy.actions)
    for _ in range(50):
        envoy.send(body(b"token", response=True))
        envoy.picker(streamed(b"token", response=True))
    assert len(envoy.actions) - before == 100 + (Timer.RESPONSE not in envoy.armed)


# --- a picker that is silent altogether, health checks included ---


def test_a_silent_picker_loses_its_say_in_what_it_owes_a_response() -> None:
    envoy = steered()
    envoy.send(response_headers(**SSE), body(b"one", response=True))
    envoy.do(envoy.exchange.picker_silent())
    assert envoy.response.body == b"one"
    assert envoy.exchange.result.passthrough is Reason.PICKER_UNHEALTHY
    envoy.send(body(b"two", end=True, response=True))
    assert (envoy.response.body, envoy.response.ended) == (b"onetwo", True)
    assert envoy.to_picker[-1].response_body.body == b"two", "it still gets copies"


@pytest.mark.parametrize("when", ["before the response", "all answered", "amid a plain body"])
def test_a_silent_picker_that_owes_nothing_may_come_back(when: str) -> None:
    envoy = steered()
    if when != "before the response":
        envoy.send(response_headers(**JSON))
        envoy.picker(answered("response_headers"))
    if when == "amid a plain body":
        envoy.send(body(b"one", response=True))
    envoy.do(envoy.exchange.picker_silent())
    assert envoy.exchange.result.passthrough is None
    if when == "before the response":
        envoy.send(response_headers(**JSON))
        envoy.picker(answered("response_headers"))
    envoy.send(body(b"two", end=True, response=True))
    envoy.picker(streamed(b"changed", end=True, response=True))
    assert (envoy.response.body, envoy.response.ended) == (b"changed", True)


def test_a_silent_picker_holds_up_no_request_that_it_has_begun_to_answer() -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(request_headers())
    envoy.picker(picked(B))
    envoy.ring(Timer.END)
    envoy.send(body(b"one"), body(b"two", end=True))
    envoy.picker(streamed(b"one"))
    envoy.do(envoy.exchange.picker_silent())
    assert (envoy.destination, envoy.request.body, envoy.request.ended) == (B, b"onetwo", True)


# --- the defaults ---


def test_flow_control_may_queue_for_minutes_with_the_defaults() -> None:
    """llm-d's and GAIE's queue requests for 60 s by default; pools scale from zero in minutes."""
    defaults = PoolSettings()
    assert defaults.pick_timeout >= 4 * 60
    interval, patience = pace(defaults.pick_timeout)
    assert interval * (1 + JITTER) + patience < 6, "a stopped picker is found out by its health"


# --- what is said of it ---


def overdue_pick() -> Envoy:
    envoy = conversation()
    envoy.send(request_headers(end=True))
    envoy.ring(Timer.PICK)
    return envoy


def overdue_response() -> Envoy:
    envoy = steered()
    envoy.send(response_headers(end=True))
    envoy.silence(Timer.RESPONSE)
    return envoy


def overdue_endpoint() -> Envoy:
    envoy = conversation(snapshot(members=table(A), acknowledged=1))
    envoy.send(request_headers(end=True))
    envoy.picker(picked(B))
    envoy.silence(Timer.ENDPOINT)
    return envoy


def dead() -> Envoy:
    envoy = conversation()
    envoy.send(request_headers(end=True))
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_ERROR))
    return envoy


@pytest.mark.parametrize(
    ("made", "setting"),
    [
        (overdue_pick, "pick-timeout"),
        (overdue_response, "response-timeout"),
        (overdue_endpoint, "endpoint-wait"),
        (dead, ""),
    ],
)
def test_what_a_deadline_ended_names_its_setting_and_what_a_fault_ended_does_not(
    made: Callable[[], Envoy], setting: str
) -> None:
    assert made().exchange.result.hint == setting


def test_the_deadline_of_the_pick_does_not_cut_off_an_answer_of_the_pickers() -> None:
    envoy = conversation()
    envoy.send(request_headers(), body(b"one"))
    exchange = envoy.exchange
    exchange.from_picker(answering("headers"))
    assert exchange.picker_stalled(True) == []
    ended = exchange.from_picker(answering("body", end=True))
    assert any(isinstance(action, FinishEnvoy) for action in ended)
