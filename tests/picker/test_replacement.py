"""CONTINUE_AND_REPLACE: what a header answer says of the body. Whose fault broken bytes are."""

import pytest

from epp_client.errors import EnvoyViolation, LeftOut, PickerViolation
from epp_client.ext_proc.pb.ext_proc_pb2 import CommonResponse, ProcessingResponse
from epp_client.picker.mutations import Omissions
from epp_client.picker.protocol import parse_reply, parse_request
from epp_client.picker.steering import (
    CONTINUE_AND_REPLACE,
    Replacement,
    response_headers_reply,
    take_replacement,
)

NO_MESSAGE = b"\xff\xff\xff\xff"


def common(*, body: bytes | None = None, clear: bool = False) -> CommonResponse:
    answer = CommonResponse(status=CONTINUE_AND_REPLACE)  # type: ignore[arg-type]
    if body is not None:
        answer.body_mutation.body = body
    if clear:
        answer.body_mutation.clear_body = True
    return answer


def test_an_answer_that_continues_says_nothing_of_the_body() -> None:
    answer = CommonResponse()
    answer.body_mutation.body = b"other"
    assert take_replacement(answer, {}, headers_only=False) is None
    assert answer.body_mutation.body == b"other"


@pytest.mark.parametrize(
    ("answer", "payload"), [(common(body=b"other"), b"other"), (common(clear=True), b"")]
)
def test_the_body_is_replaced(answer: CommonResponse, payload: bytes) -> None:
    omissions: Omissions = {}
    assert take_replacement(answer, omissions, headers_only=False) == Replacement(payload)
    assert answer == CommonResponse(), "Envoy is told of the replacement with the body"
    assert omissions == {}


def test_a_replacement_without_a_body_leaves_the_body_and_is_counted() -> None:
    omissions: Omissions = {}
    assert take_replacement(common(), omissions, headers_only=False) == Replacement(None)
    assert omissions == {LeftOut.REPLACEMENT: (1, "CONTINUE_AND_REPLACE")}


def test_a_message_without_a_body_may_get_one_from_envoy() -> None:
    answer = common(body=b"other")
    assert take_replacement(answer, {}, headers_only=True) is None
    assert answer == common(body=b"other")


def test_a_message_without_a_body_has_nothing_to_keep() -> None:
    omissions: Omissions = {}
    answer = common()
    assert take_replacement(answer, omissions, headers_only=True) is None
    assert answer == CommonResponse()
    assert set(omissions) == {LeftOut.REPLACEMENT}


def test_changes_of_a_response_that_are_too_many_are_left_out_together() -> None:
    reply = ProcessingResponse()
    mutation = reply.response_headers.response.header_mutation
    for number in range(300):
        option = mutation.set_headers.add()
        option.header.key, option.header.raw_value = f"x-{number}", b"1"
    omissions: Omissions = {}
    raw, replacement = response_headers_reply(
        reply.SerializeToString(), b"", omissions, 60_000, headers_only=False
    )
    sent = ProcessingResponse.FromString(raw).response_headers.response
    assert not sent.HasField("header_mutation")
    assert replacement is None
    assert set(omissions) == {LeftOut.HEADER_LIMIT}


def test_who_sends_bytes_that_are_no_message_is_named() -> None:
    with pytest.raises(EnvoyViolation):
        parse_request(NO_MESSAGE)
    with pytest.raises(PickerViolation):
        parse_reply(NO_MESSAGE)
