"""The header answer waits for the end of the request for a moment, and is marked if the end did not come.

On a route with retries Envoy repeats the body of a request with trailers. So only requests that are known
to have none may be retried. The referee of `conversation` refuses an unmarked answer if trailers come.
"""

from typing import Any

import pytest

from epp_client.errors import Reason
from epp_client.pool.inference_pool import FailureMode
from epp_client.relay.actions import Timer
from epp_client.relay.outcome import Outcome

from .conversation import (
    A,
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
    trailers,
)

DECIDERS = ("a picker that picks at the headers", "no picker", "a picker that fails")


def decided(who: str, **settings: Any) -> Envoy:
    """A request whose endpoint is known, and of which only the headers have arrived."""
    envoy = conversation(snapshot(picker=who != "no picker", **settings))
    envoy.send(request_headers())
    if who == DECIDERS[0]:
        envoy.picker(picked(A))
    elif who == DECIDERS[2]:
        envoy.do(envoy.exchange.picker_closed(Reason.PICKER_UNREACHABLE))
    return envoy


def echo(envoy: Envoy, who: str, payload: bytes, *, end: bool = False) -> None:
    """The picker returns a chunk, if it is still there."""
    if who == DECIDERS[0]:
        envoy.picker(streamed(payload, end=end))


@pytest.mark.parametrize("who", DECIDERS)
def test_a_request_that_ends_soon_may_be_retried(who: str) -> None:
    envoy = decided(who)
    assert envoy.request.headers is None
    envoy.send(body(b"one"))
    echo(envoy, who, b"one")
    assert envoy.request.headers is None
    envoy.send(body(b"two", end=True))
    echo(envoy, who, b"two", end=True)
    assert (envoy.request.body, envoy.request.ended) == (b"onetwo", True)
    assert (envoy.destination, envoy.marked) == (A, False)
    assert Timer.END not in envoy.armed


@pytest.mark.parametrize("who", DECIDERS)
def test_a_request_with_trailers_may_not(who: str) -> None:
    envoy = decided(who)
    envoy.send(body(b"one"), trailers())
    echo(envoy, who, b"one")
    echo(envoy, who, b"", end=True)
    envoy.picker(answered("request_trailers"))
    assert (envoy.request.body, envoy.request.ended) == (b"one", True)
    assert (envoy.destination, envoy.marked) == (A, True)


@pytest.mark.parametrize("who", DECIDERS)
@pytest.mark.parametrize("before", [b"", b"one"])
def test_a_request_that_does_not_end_soon_streams_through_and_may_not(
    who: str, before: bytes
) -> None:
    envoy = decided(who)
    if before:
        envoy.send(body(before))
        echo(envoy, who, before)
    envoy.ring(Timer.END)
    assert (envoy.destination, envoy.request.body) == (A, before)
    envoy.send(body(b"two"))
    echo(envoy, who, b"two")
    assert (envoy.request.body, envoy.marked) == (before + b"two", True)
    envoy.send(trailers())
    envoy.picker(answered("request_trailers"))
    assert envoy.request.ended


@pytest.mark.parametrize("who", DECIDERS)
def test_what_cannot_be_kept_does_not_wait(who: str) -> None:
    envoy = decided(who, max_retained_body=1000)
    envoy.send(body(b"x" * 600))
    echo(envoy, who, b"x" * 600)
    assert envoy.request.headers is None
    envoy.send(body(b"y" * 500))
    echo(envoy, who, b"y" * 500)
    assert envoy.request.body == b"x" * 600 + b"y" * 500
    assert not envoy.exchange.request_lost
    envoy.send(trailers())
    envoy.picker(answered("request_trailers"))
    assert envoy.request.ended


@pytest.mark.parametrize("who", DECIDERS)
def test_a_client_that_leaves_meanwhile_leaves_nothing(who: str) -> None:
    envoy = decided(who)
    envoy.send(body(b"one"))
    envoy.do(envoy.exchange.envoy_closed())
    assert envoy.finished
    assert envoy.exchange.retained == 0
    assert envoy.exchange.result.outcome is Outcome.CANCELLED
    assert envoy.armed == set()


@pytest.mark.parametrize("who", DECIDERS)
def test_an_answer_of_envoy_meanwhile_needs_no_endpoint(who: str) -> None:
    envoy = decided(who)
    envoy.send(response_headers(end=True))
    assert envoy.response.ended
    assert envoy.exchange.result.outcome is Outcome.LOCAL_REPLY
    assert envoy.exchange.result.endpoint is None


def test_no_endpoint_at_the_end_is_refused() -> None:
    envoy = decided("a picker that fails")
    envoy.exchange.state.local_pick = lambda *_: ()
    envoy.send(body(b"one", end=True))
    assert envoy.error == Reason.NO_READY_ENDPOINT
    assert envoy.exchange.retained == 0


def test_an_upgrade_has_no_end_to_wait_for() -> None:
    envoy = conversation(snapshot(picker=False))
    envoy.send(request_headers(connection="upgrade", upgrade="websocket"))
    assert (envoy.destination, envoy.marked) == (A, False)


def test_a_picker_that_dies_meanwhile_is_asked_again() -> None:
    envoy = decided(DECIDERS[0])
    envoy.send(body(b"one"))
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_UNREACHABLE, died=True))
    assert Timer.END not in envoy.armed
    envoy.picker(picked(B))
    envoy.send(body(b"two", end=True))
    envoy.picker(streamed(b"onetwo", end=True))
    assert (envoy.destination, envoy.request.body, envoy.marked) == (B, b"onetwo", False)


def test_a_whole_answer_is_released_with_the_end() -> None:
    """The picker has answered the body before it has seen its end, and answers nothing more."""
    envoy = decided(DECIDERS[0])
    envoy.picker(streamed(b"instead", end=True))
    envoy.send(body(b"one", end=True))
    assert (envoy.request.body, envoy.request.ended, envoy.marked) == (b"instead", True, False)


def test_a_failing_picker_is_judged_by_what_it_had() -> None:
    """The request may end while the local pick waits: that does not make the picker late."""
    envoy = conversation(snapshot(FailureMode.FAIL_OPEN))
    envoy.send(request_headers())
    envoy.silence(Timer.PICK)
    assert envoy.exchange.settled
    assert not envoy.exchange.request_ended
