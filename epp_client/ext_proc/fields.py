"""Every field of a picker's answer (Envoy 1.40's ProcessingResponse), and what becomes of it. Pure.

The one list: docs/answers.md shows it, and each row has a test against the real Envoy. What does it is in
`picker/steering`, `picker/mutations` and `picker/immediate`.
"""

from enum import StrEnum
from typing import Final, NamedTuple


class Treatment(StrEnum):
    """What becomes of a field."""

    PASS = "pass"
    """Envoy gets it as it is, or what it means."""
    SANITISE = "sanitise"
    """Envoy gets the part of it that can be applied; what is left out is counted."""
    STRIP = "strip"
    """Envoy does not get it: it is about the stream between Envoy and us, or chooses routes."""
    REFUSE = "refuse"
    """When it cannot be applied, the failure mode decides; a response that has begun goes on."""


class Row(NamedTuple):
    """One field. `field` is `Message.field`."""

    field: str
    treatment: Treatment
    what: str


FIELDS: Final = (
    Row(
        "ProcessingResponse.request_headers",
        Treatment.SANITISE,
        "The destination is judged, and rewritten where needed",
    ),
    Row(
        "ProcessingResponse.response_headers",
        Treatment.SANITISE,
        "See CommonResponse",
    ),
    Row(
        "ProcessingResponse.request_body",
        Treatment.PASS,
        "In the one form and order that Envoy takes",
    ),
    Row(
        "ProcessingResponse.response_body",
        Treatment.PASS,
        "In the one form and order that Envoy takes",
    ),
    Row(
        "ProcessingResponse.request_trailers",
        Treatment.SANITISE,
        "See HeaderMutation",
    ),
    Row(
        "ProcessingResponse.response_trailers",
        Treatment.SANITISE,
        "See HeaderMutation",
    ),
    Row(
        "ProcessingResponse.immediate_response",
        Treatment.REFUSE,
        "See ImmediateResponse",
    ),
    Row(
        "ProcessingResponse.streamed_immediate_response",
        Treatment.REFUSE,
        "Before the response; after that Envoy would lose the response",
    ),
    Row(
        "ProcessingResponse.dynamic_metadata",
        Treatment.SANITISE,
        "Without the served endpoint and our own namespace; the destination counts in "
        "the answer to request headers (or a body before it) alone",
    ),
    Row(
        "ProcessingResponse.mode_override",
        Treatment.STRIP,
        "The body modes are what the relay rests on",
    ),
    Row(
        "ProcessingResponse.override_message_timeout",
        Treatment.STRIP,
        "A message of its own is ignored, as by Envoy; beside an answer, Envoy would "
        "not read the answer",
    ),
    Row(
        "ProcessingResponse.request_drain",
        Treatment.STRIP,
        "Envoy 1.40 does nothing for it",
    ),
    Row(
        "HeadersResponse.response",
        Treatment.SANITISE,
        "See CommonResponse",
    ),
    Row(
        "BodyResponse.response",
        Treatment.PASS,
        "See CommonResponse",
    ),
    Row(
        "TrailersResponse.header_mutation",
        Treatment.SANITISE,
        "See HeaderMutation",
    ),
    Row(
        "CommonResponse.status",
        Treatment.SANITISE,
        "CONTINUE_AND_REPLACE with a body: that is the whole body; without one: the "
        "body stays as it is. In an answer to a body Envoy does not read it",
    ),
    Row(
        "CommonResponse.header_mutation",
        Treatment.SANITISE,
        "See HeaderMutation. In an answer to a body Envoy does not read it",
    ),
    Row(
        "CommonResponse.body_mutation",
        Treatment.PASS,
        "In an answer to headers only with CONTINUE_AND_REPLACE",
    ),
    Row(
        "CommonResponse.trailers",
        Treatment.PASS,
        "Envoy does not implement it",
    ),
    Row(
        "CommonResponse.clear_route_cache",
        Treatment.STRIP,
        "A picker chooses endpoints, never routes",
    ),
    Row(
        "BodyMutation.body",
        Treatment.PASS,
        "As a streamed response, in place of the chunk that it answers",
    ),
    Row(
        "BodyMutation.clear_body",
        Treatment.PASS,
        "As a streamed response of no bytes",
    ),
    Row(
        "BodyMutation.streamed_response",
        Treatment.PASS,
        "Envoy's own form",
    ),
    Row(
        "StreamedBodyResponse.body",
        Treatment.PASS,
        "",
    ),
    Row(
        "StreamedBodyResponse.end_of_stream",
        Treatment.PASS,
        "Once, and when Envoy can take it",
    ),
    Row(
        "StreamedBodyResponse.end_of_stream_without_message",
        Treatment.PASS,
        "Envoy reads it in its body mode GRPC alone",
    ),
    Row(
        "StreamedBodyResponse.grpc_message_compressed",
        Treatment.PASS,
        "Envoy reads it in its body mode GRPC alone",
    ),
    Row(
        "HeaderMutation.set_headers",
        Treatment.SANITISE,
        "See HeaderValueOption. More than Envoy takes: a request is refused by the "
        "failure mode; a response or trailers keep the headers that they had",
    ),
    Row(
        "HeaderMutation.remove_headers",
        Treatment.SANITISE,
        "Names that are none, pseudo-headers and the connection's headers are left out",
    ),
    Row(
        "HeaderValueOption.header",
        Treatment.SANITISE,
        "Without names and values that are none, pseudo-headers that cannot be changed, "
        "paths and statuses that are none, the connection's and the framing's headers",
    ),
    Row(
        "HeaderValueOption.append",
        Treatment.PASS,
        "Envoy adds a value",
    ),
    Row(
        "HeaderValueOption.append_action",
        Treatment.PASS,
        "Envoy 1.40 overwrites, whatever it says",
    ),
    Row(
        "HeaderValueOption.keep_empty_value",
        Treatment.PASS,
        "Envoy 1.40 keeps empty values",
    ),
    Row(
        "HeaderValue.key",
        Treatment.SANITISE,
        "See HeaderValueOption.header",
    ),
    Row(
        "HeaderValue.value",
        Treatment.PASS,
        "Envoy 1.40 reads raw_value alone; we read a destination from either",
    ),
    Row(
        "HeaderValue.raw_value",
        Treatment.SANITISE,
        "Without blanks around it",
    ),
    Row(
        "ImmediateResponse.status",
        Treatment.REFUSE,
        "Below 200, above 599 or unset. Envoy would make a 200 of some, and what is not "
        "HTTP of others",
    ),
    Row(
        "ImmediateResponse.headers",
        Treatment.SANITISE,
        "See HeaderMutation",
    ),
    Row(
        "ImmediateResponse.body",
        Treatment.PASS,
        "But for a 204 and a 304",
    ),
    Row(
        "ImmediateResponse.grpc_status",
        Treatment.PASS,
        "",
    ),
    Row(
        "ImmediateResponse.details",
        Treatment.PASS,
        "",
    ),
    Row(
        "StreamedImmediateResponse.headers_response",
        Treatment.SANITISE,
        "First, with a status from 200 to 599",
    ),
    Row(
        "StreamedImmediateResponse.body_response",
        Treatment.PASS,
        "",
    ),
    Row(
        "StreamedImmediateResponse.trailers_response",
        Treatment.SANITISE,
        "See HeaderMutation",
    ),
)
"""In the order of Envoy's messages."""
