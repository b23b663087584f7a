"""Streams that begin with a response: Envoy, or a filter before ours, has answered."""

import pytest

from epp_client.errors import Reason
from epp_client.pool.settings import ResponseMode
from epp_client.relay.actions import OpenPicker
from epp_client.relay.outcome import Outcome

from .conversation import body, conversation, request_headers, response_headers, snapshot, trailers

REPLIES = {
    "headers": [response_headers(end=True)],
    "a body": [
        response_headers(),
        body(b"RBAC: access", response=True),
        body(b" denied", True, response=True),
    ],
    "trailers": [response_headers(), body(b"denied", response=True), trailers(response=True)],
}
WHOLE = {"headers": b"", "a body": b"RBAC: access denied", "trailers": b"denied"}


@pytest.mark.parametrize("mode", ResponseMode)
@pytest.mark.parametrize("reply", REPLIES)
def test_a_stream_that_begins_with_a_response_passes_and_asks_no_picker(
    reply: str, mode: ResponseMode
) -> None:
    envoy = conversation(snapshot(response_mode=mode))
    envoy.send(*REPLIES[reply])
    assert envoy.refusal is None
    assert envoy.response.ended
    assert envoy.response.body == WHOLE[reply]
    assert envoy.exchange.result.outcome is Outcome.LOCAL_REPLY
    assert (envoy.exchange.result.reason, envoy.exchange.result.failure) == (None, None)
    assert not any(isinstance(action, OpenPicker) for action in envoy.actions)
    envoy.do(envoy.exchange.envoy_closed())
    assert envoy.exchange.result.outcome is Outcome.LOCAL_REPLY


def test_a_reply_of_envoy_s_before_the_pick_is_a_local_one_too() -> None:
    envoy = conversation()
    envoy.send(request_headers(), body(b"half of it"))
    envoy.send(response_headers(), body(b"request timeout", True, response=True))
    assert (envoy.exchange.result.outcome, envoy.exchange.result.reason) == (
        Outcome.LOCAL_REPLY,
        None,
    )
    assert envoy.response.body == b"request timeout"
    assert not envoy.exchange.state.picker_open


@pytest.mark.parametrize(
    "strange", [[body(b"x", response=True)], [body(b"x")], [response_headers(), request_headers()]]
)
def test_a_stream_that_begins_in_its_middle_is_refused(strange: list[bytes]) -> None:
    envoy = conversation()
    for raw in strange:
        envoy.do(envoy.exchange.from_envoy(raw))
    assert envoy.exchange.result.reason is Reason.ENVOY_PROTOCOL
