"""Requests of which Envoy sends the headers alone (`request-mode: headers`)."""

import pytest

from epp_client.errors import Reason
from epp_client.ext_proc.messages import Answer
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from epp_client.ext_proc.replies import EMPTY
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.settings import ResponseMode
from epp_client.relay.actions import Arm, Timer, ToEnvoy
from epp_client.relay.outcome import Outcome

from .conversation import (
    OUTSIDE,
    A,
    B,
    body,
    conversation,
    immediate,
    picked,
    request_headers,
    response_headers,
    snapshot,
    trailers,
)

ALONE = b"\x5a\x02\x10\x04"
"""ProcessingRequest.protocol_config: no bodies of requests, full-duplex bodies of responses."""
POST = request_headers(content_length="640") + ALONE


def test_the_picker_picks_at_the_headers_and_is_told_that_nothing_follows() -> None:
    envoy = conversation()
    envoy.send(POST)
    [asked] = envoy.to_picker
    assert asked.request_headers.end_of_stream
    assert envoy.exchange.request_ended
    envoy.picker(picked(B))
    assert (envoy.destination, envoy.exchange.result.outcome) == (B, Outcome.STEERED)
    assert (envoy.request.body, envoy.exchange.retained) == (b"", 0)
    assert not any(isinstance(a, Arm) and a.timer is Timer.END for a in envoy.actions)


@pytest.mark.parametrize("mode", ResponseMode)
def test_the_response_is_what_its_own_mode_says(mode: ResponseMode) -> None:
    envoy = conversation(snapshot(response_mode=mode))
    envoy.send(POST)
    envoy.picker(picked(B))
    envoy.send(response_headers(), body(b"tokens", response=True))
    copies = 2 if mode in (ResponseMode.RELAY, ResponseMode.OBSERVE) else 0
    assert len(envoy.to_picker) == 1 + copies
    if mode is not ResponseMode.RELAY:
        assert envoy.response.body == b"tokens"


@pytest.mark.parametrize("mode", FailureMode)
def test_a_failure_of_the_picker_needs_no_replay(mode: FailureMode) -> None:
    envoy = conversation(snapshot(mode, max_retained_body=0))
    envoy.send(POST)
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_UNREACHABLE))
    if mode is FailureMode.FAIL_OPEN:
        assert (envoy.destination, envoy.request.body) == (A, b"")
    else:
        assert envoy.refusal is not None


def test_a_picker_that_dies_is_asked_again() -> None:
    envoy = conversation()
    envoy.send(POST)
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_UNREACHABLE, died=True))
    assert envoy.exchange.state.attempts == 2
    [asked] = envoy.to_picker
    assert asked.request_headers.end_of_stream
    envoy.picker(picked(B))
    assert envoy.destination == B


def test_picks_are_judged_and_refusals_are_answers() -> None:
    envoy = conversation()
    envoy.send(POST)
    envoy.picker(picked(OUTSIDE))
    envoy.ring(Timer.ENDPOINT)
    assert envoy.exchange.result.failure is Reason.PICK_OUTSIDE_POOL
    assert envoy.destination == A
    envoy = conversation()
    envoy.send(POST)
    envoy.picker(immediate(429))
    assert envoy.exchange.result.outcome is Outcome.REFUSED_BY_PICKER


def test_a_pool_without_a_picker_waits_for_no_end() -> None:
    envoy = conversation(snapshot(picker=False))
    envoy.send(POST)
    assert envoy.destination == A


def test_trailers_that_envoy_sends_nevertheless_are_answered() -> None:
    """An Envoy that somebody configured by hand: body mode NONE, but trailers SEND."""
    envoy = conversation()
    envoy.send(POST)
    envoy.picker(picked(B))
    envoy.send(trailers())
    [told] = [a.message for a in envoy.actions if isinstance(a, ToEnvoy)][1:]
    assert told == EMPTY[Answer.REQUEST_TRAILERS]
    assert [asked.WhichOneof("request") for asked in envoy.to_picker] == ["request_headers"]


def test_a_body_that_envoy_said_it_would_not_send_is_its_violation() -> None:
    envoy = conversation()
    envoy.send(POST)
    envoy.picker(picked(B))
    envoy.send(body(b"surprise", True))
    assert envoy.exchange.result.reason is Reason.ENVOY_PROTOCOL


def test_a_request_without_a_body_is_the_same_in_both_modes() -> None:
    plain, alone = conversation(), conversation()
    plain.send(request_headers(True))
    alone.send(request_headers(True) + ALONE)
    assert [m.SerializeToString() + ALONE for m in plain.to_picker] == [
        m.SerializeToString() for m in alone.to_picker
    ]


def test_an_upgrade_stays_one() -> None:
    envoy = conversation()
    envoy.send(request_headers(upgrade="websocket") + ALONE)
    envoy.picker(picked(B))
    envoy.send(response_headers(), body(b"from the server", response=True))
    assert envoy.response.body == b"from the server"
    assert len(envoy.to_picker) == 1
    assert isinstance(envoy.to_picker[0], ProcessingRequest)
