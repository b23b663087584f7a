"""How each field of a picker's answer (Envoy 1.40's ProcessingResponse) is treated, as a table. Pure.

docs/answers.md shows the table, and each row has a test against the real Envoy. The treatments are carried
out in `picker/steering`, `picker/mutations` and `picker/immediate`.
"""

from enum import StrEnum
from typing import Final, NamedTuple


class Treatment(StrEnum):
    """What happens with a field."""

    PASS = "pass"
    """Envoy gets it, or its meaning in a form that Envoy accepts."""
    SANITISE = "sanitise"
    """Envoy gets the parts that can be applied; the other parts are counted."""
    STRIP = "strip"
    """Envoy does not get it: it controls the stream between Envoy and us, or chooses routes."""
    REFUSE = "refuse"
    """If it cannot be applied, the failure mode decides. A response that has begun continues."""


PASS, SANITISE, STRIP, REFUSE = Treatment


class Row(NamedTuple):
    """One field. `field` is `Message.field`."""

    field: str
    treatment: Treatment
    what: str


FIELDS: Final = (
    Row(
        "ProcessingResponse.request_headers",
        SANITISE,
        "The destination is judged, and rewritten where needed",
    ),
    Row("ProcessingResponse.response_headers", SANITISE, "See CommonResponse"),
    Row("ProcessingResponse.request_body", PASS, "In the form and order that Envoy accepts"),
    Row("ProcessingResponse.response_body", PASS, "In the form and order that Envoy accepts"),
    Row("ProcessingResponse.request_trailers", SANITISE, "See HeaderMutation"),
    Row("ProcessingResponse.response_trailers", SANITISE, "See HeaderMutation"),
    Row("ProcessingResponse.immediate_response", REFUSE, "See ImmediateResponse"),
    Row(
        "ProcessingResponse.streamed_immediate_response",
        REFUSE,
        "Before the response; after that Envoy would lose the response",
    ),
    Row(
        "ProcessingResponse.dynamic_metadata",
        SANITISE,
        "Without the served endpoint and our own namespace; the destination counts only in the "
        "answer to request headers (or a body before it)",
    ),
    Row("ProcessingResponse.mode_override", STRIP, "The relay depends on the body modes"),
    Row(
        "ProcessingResponse.override_message_timeout",
        STRIP,
        "Envoy ignores it in a message of its own. In one message with an answer it would keep "
        "Envoy from reading the answer",
    ),
    Row("ProcessingResponse.request_drain", STRIP, "Envoy 1.40 ignores it"),
    Row("HeadersResponse.response", SANITISE, "See CommonResponse"),
    Row("BodyResponse.response", PASS, "See CommonResponse"),
    Row("TrailersResponse.header_mutation", SANITISE, "See HeaderMutation"),
    Row(
        "CommonResponse.status",
        SANITISE,
        "CONTINUE_AND_REPLACE with a body replaces the whole body. Without one the body does not "
        "change. In an answer to a body Envoy ignores it",
    ),
    Row(
        "CommonResponse.header_mutation",
        SANITISE,
        "See HeaderMutation. In an answer to a body Envoy ignores it",
    ),
    Row(
        "CommonResponse.body_mutation",
        PASS,
        "In an answer to headers only with CONTINUE_AND_REPLACE",
    ),
    Row("CommonResponse.trailers", PASS, "Envoy does not implement it"),
    Row("CommonResponse.clear_route_cache", STRIP, "A picker chooses endpoints, never routes"),
    Row("BodyMutation.body", PASS, "As a streamed response that replaces the answered chunk"),
    Row(
        "BodyMutation.clear_body",
        PASS,
        "As a streamed response of no bytes; `false` changes nothing",
    ),
    Row("BodyMutation.streamed_response", PASS, "Envoy's own form"),
    Row("StreamedBodyResponse.body", PASS, ""),
    Row("StreamedBodyResponse.end_of_stream", PASS, "Once, and when Envoy can accept it"),
    Row(
        "StreamedBodyResponse.end_of_stream_without_message",
        PASS,
        "Envoy reads it only in body mode GRPC",
    ),
    Row(
        "StreamedBodyResponse.grpc_message_compressed",
        PASS,
        "Envoy reads it only in body mode GRPC",
    ),
    Row(
        "HeaderMutation.set_headers",
        SANITISE,
        "See HeaderValueOption. Above Envoy's limits, the failure mode decides about a request, "
        "and a response or trailers keep their headers",
    ),
    Row(
        "HeaderMutation.remove_headers",
        SANITISE,
        "Invalid names, pseudo-headers and headers of the connection are left out",
    ),
    Row(
        "HeaderValueOption.header",
        SANITISE,
        "Without invalid names, values, paths and statuses, pseudo-headers that cannot be "
        "changed, and headers of the connection and the framing",
    ),
    Row("HeaderValueOption.append", PASS, "Envoy adds a value"),
    Row("HeaderValueOption.append_action", PASS, "Envoy 1.40 always overwrites"),
    Row("HeaderValueOption.keep_empty_value", PASS, "Envoy 1.40 keeps empty values"),
    Row("HeaderValue.key", SANITISE, "See HeaderValueOption.header"),
    Row(
        "HeaderValue.value",
        PASS,
        "Envoy 1.40 reads only raw_value; we read a destination from either",
    ),
    Row("HeaderValue.raw_value", SANITISE, "Without surrounding blanks"),
    Row(
        "ImmediateResponse.status",
        REFUSE,
        "Refused if unset, below 200 or above 599: Envoy would turn some of these into a 200 "
        "and others into invalid HTTP",
    ),
    Row("ImmediateResponse.headers", SANITISE, "See HeaderMutation"),
    Row("ImmediateResponse.body", PASS, "Except for a 204 and a 304"),
    Row("ImmediateResponse.grpc_status", PASS, ""),
    Row("ImmediateResponse.details", PASS, ""),
    Row(
        "StreamedImmediateResponse.headers_response",
        SANITISE,
        "First, with a status from 200 to 599",
    ),
    Row("StreamedImmediateResponse.body_response", PASS, ""),
    Row("StreamedImmediateResponse.trailers_response", SANITISE, "See HeaderMutation"),
)
"""In the order of Envoy's messages."""
