"""Encodes the ext_proc answers that the sidecar gives itself. Pure."""

import json
from functools import cache
from typing import Final

from epp_client.errors import Reason
from epp_client.ext_proc.messages import Answer, varint
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingResponse

OVERWRITE: Final = 2
"""HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD."""

GRPC_UNAVAILABLE = 14


def _field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + varint(len(content)) + content


EMPTY: Final = {
    Answer.REQUEST_HEADERS: _field(Answer.REQUEST_HEADERS, b""),
    Answer.REQUEST_TRAILERS: _field(Answer.REQUEST_TRAILERS, b""),
    Answer.RESPONSE_HEADERS: _field(Answer.RESPONSE_HEADERS, b""),
    Answer.RESPONSE_TRAILERS: _field(Answer.RESPONSE_TRAILERS, b""),
}
"""Answers that change nothing."""

END_OF_REQUEST_BODY: Final = _field(4, b"\x10\x01")
"""ProcessingRequest{request_body{end_of_stream}}: for a picker that waits for the end of the body and
ignores trailers, as GAIE's does."""


ERROR_HEADER: Final = "x-inference-error"
"""Response header with the reason of an error that does not come from the model server."""
FALLBACK: Final = "x-inference-fallback"
"""Response header with the reason why a request was served without its picker."""
MARKS_NAMESPACE: Final = "epp-client"
REQUEST_TRAILERS_MARK: Final = "request-trailers"
"""Key of the mark of a request that has trailers, or may have some."""
PICKER_SAID_MARK: Final = "picker-said"
"""Key of a rejected pick in the dynamic metadata, for Envoy's access log."""


def with_trailers_mark(headers: bytes) -> bytes:
    """The header answer with a mark that makes Envoy choose the route again: one without retries.

    With a retry policy, Envoy 1.40 keeps the injected body and sends it a second time when it continues
    with the trailers: the upstream would get the body twice. The picker's changes of `host` and
    pseudo-headers are dropped, as they would affect the choice of the route.
    """
    reply = ProcessingResponse.FromString(headers)
    changes = reply.request_headers.response.header_mutation.set_headers
    for option in [o for o in changes if o.header.key[:1] == ":" or o.header.key.lower() == "host"]:
        changes.remove(option)
    reply.request_headers.response.clear_route_cache = True
    marks = reply.dynamic_metadata.fields[MARKS_NAMESPACE].struct_value
    marks.fields[REQUEST_TRAILERS_MARK].bool_value = True
    return reply.SerializeToString()


def mark_picker_said(reply: ProcessingResponse, text: str) -> None:
    """Add the picker's text, unless empty, to the metadata for the access log."""
    if text:
        marks = reply.dynamic_metadata.fields[MARKS_NAMESPACE].struct_value
        marks.fields[PICKER_SAID_MARK].string_value = text


@cache
def fallback_mark(reason: Reason) -> bytes:
    """A response-headers answer that sets `x-inference-fallback`, for the client."""
    reply = ProcessingResponse()
    mutation = reply.response_headers.response.header_mutation
    option = mutation.set_headers.add(append_action=OVERWRITE)
    option.header.key, option.header.raw_value = FALLBACK, str(reason).encode()
    return reply.SerializeToString()


def streamed_body(answer: Answer, payload: bytes, end_of_stream: bool) -> bytes:
    """A BodyResponse whose streamed_response passes `payload` on unchanged."""
    tail = b"\x10\x01" if end_of_stream else b""
    size = len(payload)
    length = varint(size)
    head = b"\x0a" + length if size else b""
    # Nested lengths from the inside out: streamed_response, body_mutation, CommonResponse.
    streamed = len(head) + size + len(tail)
    level3 = b"\x1a" + varint(streamed)
    level2 = b"\x1a" + varint(len(level3) + streamed)
    level1 = b"\x0a" + varint(len(level2) + len(level3) + streamed)
    outer = varint(len(level1) + len(level2) + len(level3) + streamed)
    return b"".join((bytes((answer << 3 | 2,)), outer, level1, level2, level3, head, payload, tail))


_ENDPOINT_UNAVAILABLE = "inference_endpoint_unavailable"
_STATUS_AND_TYPE = {
    Reason.POOL_NOT_NAMED: (500, "inference_pool_misconfigured"),
    Reason.POOL_UNKNOWN: (503, "inference_pool_unavailable"),
    Reason.POOL_NOT_SYNCED: (503, "inference_pool_unavailable"),
    Reason.NO_READY_ENDPOINT: (503, "inference_pool_unavailable"),
    Reason.SUBSET_EMPTY: (503, "inference_pool_unavailable"),
    Reason.OVERLOADED: (503, "sidecar_overloaded"),
    Reason.ENVOY_PROTOCOL: (500, "ext_proc_protocol"),
    Reason.ENDPOINT_UNREACHABLE: (503, _ENDPOINT_UNAVAILABLE),
    Reason.ENDPOINT_BROKE_OFF: (503, _ENDPOINT_UNAVAILABLE),
    Reason.ENDPOINT_TIMEOUT: (504, _ENDPOINT_UNAVAILABLE),
}
_PICKER_UNAVAILABLE = (503, "endpoint_picker_unavailable")

_SENTENCES = {
    Reason.POOL_NOT_NAMED: "the route names no InferencePool: set the gRPC initial metadata "
    "x-inference-pool: <namespace>/<name> in its ext_proc configuration",
    Reason.POOL_UNKNOWN: "no such InferencePool is known to this sidecar",
    Reason.POOL_NOT_SYNCED: "the InferencePools have not been read yet; try again",
    Reason.NO_READY_ENDPOINT: "the InferencePool has no ready endpoint",
    Reason.SUBSET_EMPTY: "no endpoint of the requested subset is ready",
    Reason.PICKER_UNRESOLVED: "the endpoint picker's Service has no address",
    Reason.PICKER_UNREACHABLE: "the endpoint picker could not be connected to",
    Reason.PICKER_UNHEALTHY: "no replica of the endpoint picker is usable: each is a standby, "
    "does not answer, or fails its picks",
    Reason.PICKER_TIMEOUT: "the endpoint picker did not answer in time",
    Reason.PICKER_ERROR: "the endpoint picker ended the call with an error",
    Reason.PICKER_CLOSED: "the endpoint picker closed the call before it picked",
    Reason.PICKER_PROTOCOL: "the endpoint picker broke the ext_proc protocol",
    Reason.PICK_MISSING: "the endpoint picker named no destination endpoint",
    Reason.PICK_MALFORMED: "the endpoint picker's destination endpoint is not a list of ip:port",
    Reason.PICK_DISAGREES: "the endpoint picker's header and metadata name different endpoints",
    Reason.PICK_OUTSIDE_POOL: "the endpoint picker named an endpoint outside the InferencePool",
    Reason.PICK_OUTSIDE_SUBSET: "the endpoint picker named an endpoint outside the subset",
    Reason.ENDPOINT_UNREACHABLE: "no chosen endpoint could be connected to; no model server has received "
    "the request",
    Reason.ENDPOINT_BROKE_OFF: "the endpoint broke the connection before it answered",
    Reason.ENDPOINT_TIMEOUT: "the endpoint did not answer in time",
    Reason.BODY_NOT_RETAINED: "the endpoint picker failed, and the request body was too large to "
    "be retained for a replay",
    Reason.OVERLOADED: "the sidecar has reached its limit of open requests; try again",
    Reason.ENVOY_PROTOCOL: "Envoy broke the ext_proc protocol",
}


def describe(reason: Reason) -> str:
    """The sentence that describes a reason to a person."""
    return _SENTENCES[reason]


def status_of(reason: Reason) -> int:
    """The HTTP status of a refusal."""
    return _STATUS_AND_TYPE.get(reason, _PICKER_UNAVAILABLE)[0]


def kind_of(reason: Reason) -> str:
    """The `type` of an error in the OpenAI shape."""
    return _STATUS_AND_TYPE.get(reason, _PICKER_UNAVAILABLE)[1]


def refusal(
    reason: Reason,
    pool: str,
    *,
    grpc: bool = False,
    picker_said: str = "",
    request_id: str = "",
) -> bytes:
    """The ImmediateResponse for a refused request. `picker_said` only goes to the access log.

    The body is JSON in the shape of OpenAI errors, so that SDKs print it: `code` is the reason,
    `request_id` that of Envoy's access log. For a gRPC request Envoy turns the body into `grpc-message`,
    with status UNAVAILABLE.
    """
    status, kind = _STATUS_AND_TYPE.get(reason, _PICKER_UNAVAILABLE)
    message = f"InferencePool {pool}: {describe(reason)}" if pool else describe(reason)
    response = ProcessingResponse()
    mark_picker_said(response, picker_said)
    immediate = response.immediate_response
    immediate.status.code = status
    immediate.details = f"epp_client_{reason}"
    headers = {ERROR_HEADER: str(reason)}
    if reason in (Reason.OVERLOADED, Reason.POOL_NOT_SYNCED):
        headers["retry-after"] = "1"
    if grpc:
        immediate.grpc_status.status = GRPC_UNAVAILABLE
        immediate.body = message.encode()
    else:
        headers["content-type"] = "application/json"
        error = {"message": message, "type": kind, "code": str(reason), "param": None}
        if request_id:
            error["request_id"] = request_id
        immediate.body = json.dumps({"error": error}).encode()
    for key, value in headers.items():
        option = immediate.headers.set_headers.add(append_action=OVERWRITE)
        option.header.key = key
        option.header.raw_value = value.encode()
    return response.SerializeToString()
