"""What a picker has made of the messages, as the advice needs it."""

import pytest

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingResponse
from epp_client.pool.settings import ResponseMode
from epp_client.relay.uses import Use

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


def with_response(*answers: bytes) -> Envoy:
    envoy = conversation()
    envoy.send(request_headers(True))
    envoy.picker(picked(B))
    envoy.send(response_headers(), body(b"tokens", True, response=True))
    envoy.picker(*answers)
    return envoy


def changed_headers() -> bytes:
    reply = ProcessingResponse()
    option = reply.response_headers.response.header_mutation.set_headers.add()
    option.header.key, option.header.raw_value = "x-a", b"b"
    return reply.SerializeToString()


PLAIN = answered("response_headers")


@pytest.mark.parametrize(
    ("answers", "use"),
    [
        ((PLAIN, streamed(b"tokens", True, response=True)), Use.READ),
        ((PLAIN, unchanged(response=True)), Use.READ),
        ((PLAIN, streamed(b"Tokens", True, response=True)), Use.CHANGED),
        ((changed_headers(), unchanged(response=True)), Use.CHANGED),
        ((), None),
    ],
    ids=["as it was", "empty", "another body", "another header", "silent"],
)
def test_the_answers_to_a_response(answers: tuple[bytes, ...], use: Use | None) -> None:
    assert with_response(*answers).exchange.response_use is use


def test_a_picker_that_ends_its_stream_with_the_pick_ignores_the_response() -> None:
    envoy = conversation()
    envoy.send(request_headers(True))
    envoy.picker(picked(B))
    envoy.do(envoy.exchange.picker_closed(None))
    envoy.send(response_headers(True))
    assert envoy.exchange.response_use is Use.IGNORED


@pytest.mark.parametrize("mode", [ResponseMode.SKIP, ResponseMode.NONE])
def test_a_picker_that_is_not_shown_the_response_is_not_judged(mode: ResponseMode) -> None:
    envoy = conversation(snapshot(response_mode=mode))
    envoy.send(request_headers(True))
    envoy.picker(picked(B))
    envoy.do(envoy.exchange.picker_closed(None))
    assert envoy.exchange.response_use is None


@pytest.mark.parametrize(("mode", "unwanted"), [(None, False), (0, True), (4, False)])
def test_a_picker_says_that_it_wants_no_body(mode: int | None, unwanted: bool) -> None:
    reply = ProcessingResponse.FromString(picked(B))
    if mode is not None:
        reply.mode_override.SetInParent()
        reply.mode_override.request_body_mode = mode
    envoy = conversation()
    envoy.send(request_headers(True))
    envoy.picker(reply.SerializeToString())
    assert envoy.destination == B
    assert envoy.exchange.result.body_unwanted is unwanted
