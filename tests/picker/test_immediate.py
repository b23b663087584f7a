"""Answers that a picker gives in the model server's place reach the client as HTTP, or not at all."""

import pytest

from epp_client.errors import LeftOut, PickerViolation
from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderMap, ProcessingResponse
from epp_client.picker.immediate import immediate_response, streamed_immediate_response
from epp_client.picker.mutations import Omissions


def immediate(status: int, body: bytes = b"", **headers: str) -> bytes:
    reply = ProcessingResponse()
    reply.immediate_response.status.code = status  # type: ignore[assignment]
    reply.immediate_response.body = body
    for key, value in headers.items():
        option = reply.immediate_response.headers.set_headers.add()
        option.header.key, option.header.raw_value = key.replace("_", "-"), value.encode()
    return reply.SerializeToString()


@pytest.mark.parametrize("status", [200, 204, 429, 503, 599])
def test_a_final_status_passes(status: int) -> None:
    sent = ProcessingResponse.FromString(immediate_response(immediate(status), {}))
    assert sent.immediate_response.status.code == status


@pytest.mark.parametrize("status", [0, 100, 101, 199, 600, 999])
def test_a_status_that_is_not_final_is_the_pickers_fault(status: int) -> None:
    with pytest.raises(PickerViolation, match=str(status)):
        immediate_response(immediate(status), {})


@pytest.mark.parametrize(("status", "body"), [(204, b""), (304, b""), (429, b"busy")])
def test_a_status_without_a_body_has_none(status: int, body: bytes) -> None:
    raw = immediate_response(immediate(status, b"busy"), {})
    assert ProcessingResponse.FromString(raw).immediate_response.body == body


def test_headers_that_break_http_are_left_out() -> None:
    omissions: Omissions = {}
    raw = immediate_response(immediate(429, retry_after="1", x_bad="two\nlines"), omissions)
    options = ProcessingResponse.FromString(raw).immediate_response.headers.set_headers
    assert [option.header.key for option in options] == ["retry-after"]
    assert omissions == {LeftOut.HEADER_VALUE: (1, "x-bad")}


def test_what_an_answer_says_of_the_stream_is_ours() -> None:
    reply = ProcessingResponse.FromString(immediate(429))
    reply.mode_override.SetInParent()
    reply.override_message_timeout.seconds = 5
    sent = ProcessingResponse.FromString(immediate_response(reply.SerializeToString(), {}))
    assert not sent.HasField("mode_override")
    assert not sent.HasField("override_message_timeout")


def _fill(target: HeaderMap, **headers: str) -> None:
    for key, value in headers.items():
        header = target.headers.add()
        header.key, header.raw_value = key.replace("_", "-"), value.encode()


def streamed_headers(ended: bool, status: str = "200", **headers: str) -> bytes:
    reply = ProcessingResponse()
    target = reply.streamed_immediate_response.headers_response
    target.end_of_stream = ended
    _fill(target.headers, **headers)
    if status:
        header = target.headers.headers.add()
        header.key, header.raw_value = ":status", status.encode()
    return reply.SerializeToString()


def streamed_body(ended: bool) -> bytes:
    reply = ProcessingResponse()
    reply.streamed_immediate_response.body_response.body = b"part"
    reply.streamed_immediate_response.body_response.end_of_stream = ended
    return reply.SerializeToString()


def streamed_trailers(**headers: str) -> bytes:
    reply = ProcessingResponse()
    _fill(reply.streamed_immediate_response.trailers_response, **headers)
    reply.streamed_immediate_response.trailers_response.SetInParent()
    return reply.SerializeToString()


def empty() -> bytes:
    reply = ProcessingResponse()
    reply.streamed_immediate_response.SetInParent()
    return reply.SerializeToString()


@pytest.mark.parametrize("ended", [False, True])
def test_a_streamed_answer_ends_where_its_messages_say(ended: bool) -> None:
    assert streamed_immediate_response(streamed_headers(ended), {}, first=True)[1] is ended
    assert streamed_immediate_response(streamed_body(ended), {}, first=False)[1] is ended


def test_trailers_end_a_streamed_answer() -> None:
    raw, ended = streamed_immediate_response(streamed_trailers(x_sum="1"), {}, first=False)
    [header] = ProcessingResponse.FromString(
        raw
    ).streamed_immediate_response.trailers_response.headers
    assert (header.key, header.raw_value, ended) == ("x-sum", b"1", True)


@pytest.mark.parametrize(
    ("raw", "first"),
    [
        (streamed_body(True), True),
        (streamed_trailers(), True),
        (streamed_headers(True), False),
        (streamed_headers(True, status=""), True),
        (streamed_headers(True, status="101"), True),
        (empty(), False),
    ],
    ids=["body first", "trailers first", "headers twice", "no status", "not final", "empty"],
)
def test_a_streamed_answer_out_of_order_is_the_pickers_fault(raw: bytes, first: bool) -> None:
    with pytest.raises(PickerViolation):
        streamed_immediate_response(raw, {}, first=first)


def test_streamed_headers_that_break_http_are_left_out() -> None:
    omissions: Omissions = {}
    raw, _ = streamed_immediate_response(
        streamed_headers(False, x_good="1", connection="close"), omissions, first=True
    )
    sent = ProcessingResponse.FromString(raw).streamed_immediate_response.headers_response
    assert {header.key for header in sent.headers.headers} == {":status", "x-good"}
    assert set(omissions) == {LeftOut.CONNECTION_HEADER}
