"""Answers that a picker gives in the model server's place, so that they are HTTP. Pure."""

from typing import Final

from epp_client.errors import PickerViolation
from epp_client.picker.mutations import Omissions, Part, sanitise, sanitise_whole
from epp_client.picker.protocol import parse_reply
from epp_client.picker.steering import strip_control

_BODILESS: Final = frozenset((204, 304))


def immediate_response(raw: bytes, omissions: Omissions) -> bytes:
    """A picker's ImmediateResponse as Envoy gets it.

    Envoy makes a 200 of a status that it does not know, so that a refusal would read as success, and of
    other impossible ones a line that is not HTTP.

    Raises:
        PickerViolation: no ProcessingResponse, or no final HTTP status.
    """
    reply = parse_reply(raw)
    immediate = reply.immediate_response
    status = immediate.status.code
    if not 200 <= status <= 599:
        raise PickerViolation(f"an ImmediateResponse with status {status}")
    sanitise(immediate.headers, b"", Part.IMMEDIATE, omissions)
    if status in _BODILESS:
        immediate.body = b""  # Envoy would announce its length, and send none of it
    strip_control(reply)
    return reply.SerializeToString()


def streamed_immediate_response(
    raw: bytes, omissions: Omissions, *, first: bool
) -> tuple[bytes, bool]:
    """One message of a StreamedImmediateResponse as Envoy gets it, and whether it is the last.

    Raises:
        PickerViolation: no ProcessingResponse, no part of a response in its place, or headers without a
            final status.
    """
    reply = parse_reply(raw)
    streamed = reply.streamed_immediate_response
    kind = streamed.WhichOneof("response")
    if first != (kind == "headers_response"):
        raise PickerViolation("a StreamedImmediateResponse out of order")
    if kind == "headers_response":
        headers = streamed.headers_response.headers
        sanitise_whole(headers, Part.RESPONSE, omissions)
        if not any(header.key == ":status" for header in headers.headers):
            raise PickerViolation("a StreamedImmediateResponse without a status")
        ended = streamed.headers_response.end_of_stream
    elif kind == "body_response":
        ended = streamed.body_response.end_of_stream
    elif kind == "trailers_response":
        sanitise_whole(streamed.trailers_response, Part.TRAILERS, omissions)
        ended = True
    else:
        raise PickerViolation("a StreamedImmediateResponse that is empty")
    strip_control(reply)
    return reply.SerializeToString(), ended
