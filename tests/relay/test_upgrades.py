"""Upgrades (WebSocket and the like): picked at the headers, as no end of a body comes."""

import pytest

from epp_client.errors import Reason
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.settings import ResponseMode
from epp_client.relay.actions import FinishPicker
from epp_client.relay.outcome import Outcome

from .conversation import (
    A,
    B,
    body,
    conversation,
    picked,
    request_headers,
    response_headers,
    snapshot,
)

UPGRADE = request_headers(upgrade="websocket", connection="Upgrade")


@pytest.mark.parametrize("mode", ResponseMode)
def test_an_upgrade_is_picked_at_its_headers_and_then_passes_both_ways(mode: ResponseMode) -> None:
    envoy = conversation(snapshot(response_mode=mode))
    envoy.send(UPGRADE)
    [asked] = envoy.to_picker
    assert asked.request_headers.end_of_stream, "there is no body to wait for"
    envoy.picker(picked(B))
    assert (envoy.destination, envoy.exchange.result.outcome) == (B, Outcome.STEERED)
    assert any(isinstance(action, FinishPicker) for action in envoy.actions)
    envoy.send(
        response_headers(), body(b"from the server", response=True), body(b"from the client")
    )
    assert (envoy.request.body, envoy.response.body) == (b"from the client", b"from the server")
    assert len(envoy.to_picker) == 1
    assert envoy.exchange.retained == 0


def test_what_a_client_sends_before_the_pick_waits_and_is_told_to_no_picker() -> None:
    envoy = conversation()
    envoy.send(UPGRADE, body(b"eager"))
    envoy.picker(picked(B))
    assert envoy.request.body == b"eager"
    assert len(envoy.to_picker) == 1


@pytest.mark.parametrize("mode", FailureMode)
def test_a_picker_that_dies_is_asked_again_and_then_its_failure_mode_holds(
    mode: FailureMode,
) -> None:
    envoy = conversation(snapshot(mode))
    envoy.send(UPGRADE, body(b"eager"))
    for attempt in range(1, 4):
        assert envoy.exchange.state.attempts == attempt
        assert [asked.WhichOneof("request") for asked in envoy.to_picker] == ["request_headers"]
        envoy.do(envoy.exchange.picker_closed(Reason.PICKER_UNREACHABLE, died=True))
    if mode is FailureMode.FAIL_OPEN:
        assert (envoy.destination, envoy.request.body) == (A, b"eager")
    else:
        assert envoy.refusal is not None


def test_a_pool_without_a_picker_takes_upgrades() -> None:
    envoy = conversation(snapshot(picker=False))
    envoy.send(UPGRADE, body(b"x"), response_headers(), body(b"y", response=True))
    assert (envoy.destination, envoy.request.body, envoy.response.body) == (A, b"x", b"y")


def test_a_request_that_only_speaks_of_upgrades_is_none() -> None:
    envoy = conversation()
    envoy.send(request_headers(upgrade_insecure_requests="1"), body(b"hello", True))
    assert [asked.WhichOneof("request") for asked in envoy.to_picker] == [
        "request_headers",
        "request_body",
    ]
