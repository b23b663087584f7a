"""Our trimmed messages and the reading without decoding, against Envoy's own full set."""

from datetime import timedelta
from typing import Any

import betterproto2
import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 as ext_proc_v3
import envoy_data_plane.envoy.service.ext_proc.v3 as envoy
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from epp_client.errors import EnvoyViolation, MalformedMessage, Reason
from epp_client.ext_proc.messages import (
    Answer,
    BodyForm,
    Phase,
    ended,
    read_message,
    read_reply,
    with_end_of_stream,
)
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from epp_client.ext_proc.replies import describe, refusal, streamed_body

REPLIES: dict[Answer, dict[str, Any]] = {
    Answer.REQUEST_HEADERS: {"request_headers": envoy.HeadersResponse()},
    Answer.RESPONSE_HEADERS: {"response_headers": envoy.HeadersResponse()},
    Answer.REQUEST_BODY: {"request_body": envoy.BodyResponse()},
    Answer.RESPONSE_BODY: {"response_body": envoy.BodyResponse()},
    Answer.REQUEST_TRAILERS: {"request_trailers": envoy.TrailersResponse()},
    Answer.RESPONSE_TRAILERS: {"response_trailers": envoy.TrailersResponse()},
    Answer.IMMEDIATE: {"immediate_response": envoy.ImmediateResponse()},
    Answer.STREAMED_IMMEDIATE: {"streamed_immediate_response": envoy.StreamedImmediateResponse()},
}
REQUESTS: dict[Phase, dict[str, Any]] = {
    Phase.REQUEST_HEADERS: {"request_headers": envoy.HttpHeaders(end_of_stream=True)},
    Phase.RESPONSE_HEADERS: {"response_headers": envoy.HttpHeaders(end_of_stream=True)},
    Phase.REQUEST_BODY: {"request_body": envoy.HttpBody(body=b"x", end_of_stream=True)},
    Phase.RESPONSE_BODY: {"response_body": envoy.HttpBody(body=b"x", end_of_stream=True)},
    Phase.REQUEST_TRAILERS: {"request_trailers": envoy.HttpTrailers()},
    Phase.RESPONSE_TRAILERS: {"response_trailers": envoy.HttpTrailers()},
}


@pytest.mark.parametrize("answer", REPLIES)
def test_answers_have_envoys_field_numbers(answer: Answer) -> None:
    raw = bytes(envoy.ProcessingResponse(**REPLIES[answer]))
    assert read_reply(raw).answer is answer
    name = next(iter(REPLIES[answer]))
    assert ProcessingResponse.FromString(raw).WhichOneof("response") == name


def test_a_request_for_more_time_is_no_answer() -> None:
    asks = envoy.ProcessingResponse(override_message_timeout=timedelta(seconds=5))
    assert read_reply(bytes(asks)).answer is Answer.MORE_TIME
    asks.request_headers = envoy.HeadersResponse()
    located = read_reply(bytes(asks))
    assert (located.answer, located.has_more) == (Answer.REQUEST_HEADERS, True)


@pytest.mark.parametrize("phase", Phase)
def test_phases_have_envoys_field_numbers(phase: Phase) -> None:
    raw = bytes(envoy.ProcessingRequest(**REQUESTS[phase]))
    message = read_message(raw)
    assert message.phase is phase
    assert message.end_of_stream
    name = next(iter(REQUESTS[phase]))
    assert ProcessingRequest.FromString(raw).WhichOneof("request") == name


@given(st.binary(max_size=70_000), st.booleans())
def test_a_streamed_body_is_what_envoy_reads(payload: bytes, end: bool) -> None:
    raw = streamed_body(Answer.RESPONSE_BODY, payload, end)
    reply = envoy.ProcessingResponse.parse(raw)
    body = reply.response_body
    assert body is not None
    assert body.response is not None
    mutation = body.response.body_mutation
    assert mutation is not None
    assert betterproto2.which_one_of(mutation, "mutation")[0] == "streamed_response"
    assert mutation.streamed_response is not None
    assert mutation.streamed_response.body == payload
    assert mutation.streamed_response.end_of_stream is end
    located = read_reply(raw)
    assert located.form is BodyForm.STREAMED
    assert raw[located.start : located.end] == payload
    assert located.end_of_stream is end


@pytest.mark.parametrize(
    ("mutation", "form"),
    [
        (None, BodyForm.UNCHANGED),
        (envoy.BodyMutation(body=b"new"), BodyForm.REPLACED),
        (envoy.BodyMutation(clear_body=True), BodyForm.REPLACED),
        (envoy.BodyMutation(clear_body=False), BodyForm.UNCHANGED),
    ],
    ids=["none", "body", "clear_body", "clear_body is false"],
)
def test_the_other_forms_of_a_body_answer(
    mutation: envoy.BodyMutation | None, form: BodyForm
) -> None:
    """Envoy clears a body only if `clear_body` is true: MutationUtils::applyBodyMutations."""
    answer = envoy.BodyResponse(response=envoy.CommonResponse(body_mutation=mutation))
    located = read_reply(bytes(envoy.ProcessingResponse(request_body=answer)))
    assert located.form is form


@given(st.binary(max_size=200))
def test_garbage_is_malformed_or_a_message(raw: bytes) -> None:
    for read in (read_message, read_reply):
        try:
            read(raw)
        except MalformedMessage:
            continue


NUMBERS = {
    "one byte": b"\x02",
    "two bytes": b"\x82\x00",
    "three bytes": b"\x82\x80\x00",
    "five bytes": b"\x82" + b"\x80" * 3 + b"\x00",
    "six bytes": b"\x82" + b"\x80" * 4 + b"\x00",
    "ten bytes": b"\x82" + b"\x80" * 8 + b"\x00",
    "2**32": b"\x80\x80\x80\x80\x10",
    "2**63": b"\x80" * 9 + b"\x01",
    "2**64 - 1": b"\xff" * 9 + b"\x01",
    "2**64": b"\x80" * 9 + b"\x02",
    "eleven bytes": b"\x80" * 10 + b"\x01",
    "cut off": b"\x82",
}
PLACES = {
    "a tag": lambda number: b"\x22\x00" + number + b"\x00\x00",
    "a length": lambda number: b"\x22" + number + b"\x10\x01",
    "a flag": lambda number: b"\x22" + bytes((1 + len(number),)) + b"\x10" + number,
    "a length at the end": lambda number: b"\x22" + number,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_read_as_protobuf_reads_them(place: str, number: str) -> None:
    """In plain Python they have no limit, compiled they have 64 bits."""
    raw = PLACES[place](NUMBERS[number])
    try:
        expected = ProcessingRequest.FromString(raw)
    except DecodeError:
        with pytest.raises(EnvoyViolation):
            read_message(raw)
        return
    assert read_message(raw).end_of_stream is expected.request_body.end_of_stream


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_can_be_told_to_a_client(reason: Reason) -> None:
    assert describe(reason)
    for grpc in (True, False):
        reply = ProcessingResponse.FromString(refusal(reason, "default/p", grpc=grpc))
        assert reply.immediate_response.status.code >= 500


FDS = ext_proc_v3.ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED
NONE = ext_proc_v3.ProcessingModeBodySendMode.NONE


@pytest.mark.parametrize(
    ("config", "headers_only"),
    [
        (None, False),
        (envoy.ProtocolConfiguration(request_body_mode=FDS, response_body_mode=FDS), False),
        (envoy.ProtocolConfiguration(request_body_mode=FDS), False),
        (envoy.ProtocolConfiguration(request_body_mode=NONE, response_body_mode=FDS), True),
        (envoy.ProtocolConfiguration(), True),
    ],
)
def test_envoys_first_message_says_whether_a_body_will_follow(
    config: envoy.ProtocolConfiguration | None, headers_only: bool
) -> None:
    raw = bytes(
        envoy.ProcessingRequest(request_headers=envoy.HttpHeaders(), protocol_config=config)
    )
    message = read_message(raw)
    assert (message.headers_only, message.end_of_stream) == (headers_only, False)


def test_a_response_in_the_first_message_is_no_request_without_a_body() -> None:
    """Envoy's own answers begin with the response; the modes are in that message."""
    raw = bytes(
        envoy.ProcessingRequest(
            response_headers=envoy.HttpHeaders(), protocol_config=envoy.ProtocolConfiguration()
        )
    )
    assert not read_message(raw).headers_only


@given(
    st.binary(max_size=300),
    st.booleans(),
    st.sampled_from([None, envoy.ProtocolConfiguration(response_body_mode=FDS)]),
)
def test_an_end_that_is_set_changes_nothing_else(
    value: bytes, ended: bool, config: envoy.ProtocolConfiguration | None
) -> None:
    headers = core_v3.HeaderMap(headers=[core_v3.HeaderValue(key="x-value", raw_value=value)])
    asked = envoy.ProcessingRequest(
        request_headers=envoy.HttpHeaders(headers=headers, end_of_stream=ended),
        protocol_config=config,
        observability_mode=True,
    )
    told = envoy.ProcessingRequest.parse(with_end_of_stream(bytes(asked)))
    assert asked.request_headers is not None
    asked.request_headers.end_of_stream = True
    assert told == asked


@pytest.mark.parametrize(
    "raw", [b"", b"\x0f", bytes(envoy.ProcessingRequest(request_body=envoy.HttpBody()))]
)
def test_an_end_is_set_in_headers_of_a_request_alone(raw: bytes) -> None:
    with pytest.raises(EnvoyViolation):
        with_end_of_stream(raw)


@pytest.mark.parametrize("size", [1, 121, 122, 123, 124, 125, 126, 127, 16_370, 16_378, 16_382])
@pytest.mark.parametrize("kind", ["request_body", "response_body"])
@pytest.mark.parametrize("order", ["alone", "before", "after"])
def test_a_part_of_a_body_becomes_the_last(size: int, kind: str, order: str) -> None:
    part, more, wanted = ProcessingRequest(), ProcessingRequest(), ProcessingRequest()
    getattr(part, kind).body = getattr(wanted, kind).body = b"x" * size
    if order != "alone":
        for message in (more, wanted):
            fields = message.metadata_context.filter_metadata["envoy.lb"].fields
            fields["served"].string_value = "10.0.0.1:8000"
    raws = [more.SerializeToString(), part.SerializeToString()]
    last = ended(read_message(b"".join(raws if order == "before" else reversed(raws))))
    getattr(wanted, kind).end_of_stream = True
    assert ProcessingRequest.FromString(last.raw) == wanted
    again = read_message(last.raw)
    assert (
        (last.phase, last.end_of_stream)
        == (again.phase, again.end_of_stream)
        == (again.phase, True)
    )
    assert (last.start, last.end) == (again.start, again.end)
    assert last.raw[last.start : last.end] == b"x" * size
