"""Checks the responses that a picker sends instead of a model server: they must be valid HTTP. Pure."""

from typing import Final

from epp_client.errors import PickerViolation
from epp_client.picker.mutations import Omissions, Part, sanitise, sanitise_whole
from epp_client.picker.protocol import parse_reply
from epp_client.picker.steering import strip_control

_BODILESS: Final = frozenset((204, 304))


def immediate_response(raw: bytes, omissions: Omissions) -> bytes:
    """The picker's ImmediateResponse as it is sent to Envoy.

    Envoy turns a status that it does not know into 200, so a refusal would look like a success. For other
    invalid statuses it writes a status line that is not HTTP.

    Raises:
        PickerViolation: `raw` is not a ProcessingResponse, or the status is not a final HTTP status.
    """
    reply = parse_reply(raw)
    immediate = reply.immediate_response
    status = immediate.status.code
    if not 200 <= status <= 599:
        raise PickerViolation(f"an ImmediateResponse with status {status}")
    sanitise(immediate.headers, b"", Part.IMMEDIATE, omissions)
    if status in _BODILESS:
        # Envoy would send its length in `content-length`, but not the body.
        immediate.body = b""
    strip_control(reply)
    return reply.SerializeToString()


def streamed_immediate_response(
    raw: bytes, omissions: Omissions, *, first: bool
) -> tuple[bytes, bool]:
    """One message of a StreamedImmediateResponse as it is sent to Envoy, and whether it is the last.

    Raises:
        PickerViolation: `raw` is not a ProcessingResponse, the message is empty or out of order, or its
            headers have no status.
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
        raise PickerViolation("an empty StreamedImmediateResponse")
    strip_control(reply)
    return reply.SerializeToString(), ended
