"""The steps of a simulated picker, and functions that make its messages. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.struct_pb2 import Value

from epp_client.ext_proc.pb.ext_proc_pb2 import (
    HeaderMap,
    HeaderMutation,
    ProcessingRequest,
    ProcessingResponse,
)
from epp_client.picker.protocol import DESTINATION, SERVED, SUBSET, SUBSET_NAMESPACE

CHUNK = 64_000
"""Bytes of body in one answer, as in GAIE's picker, to stay below the limits of Envoy and gRPC."""
STEERING = "test-epp-endpoint-selection"
SERVED_ECHO = "x-conformance-test-served-endpoint"
OVERSIZED = 5 * 1024 * 1024
"""Bytes of a header above the default limits of every gRPC implementation."""
MODEL_REWRITE = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
"""Request headers with the model's name at the model server: llm-d's, and GAIE's."""
CONTROLS = frozenset(
    {*MODEL_REWRITE, "x-gateway-inference-objective", "x-gateway-inference-fairness-id"}
)
"""Headers for the picker only, which no picker repeats."""
SYSTEM_OWNED = CONTROLS | {"content-length", DESTINATION, SERVED, SUBSET}
"""Headers that pickers since GAIE 1.3 do not repeat."""


class Wait(NamedTuple):
    """Pause."""

    seconds: float


class Finish(NamedTuple):
    """Close the stream with OK."""


class Fail(NamedTuple):
    """End the stream with the gRPC status `status`, a name."""

    status: str
    message: str


Step = ProcessingResponse | bytes | Wait | Finish | Fail
"""One step of a picker. bytes are sent unchanged, valid or not."""


class Request:
    """What a picker knows of one request."""

    def __init__(self, message: ProcessingRequest, endpoints: Sequence[str], turn: int) -> None:
        self.headers = header_map(message.request_headers.headers)
        self.has_body = not message.request_headers.end_of_stream
        self.body = bytearray()
        self.subset = _subset(message)
        self.candidates = _steered(self.headers, endpoints, self.subset)
        steered = STEERING in self.headers
        self.pick = ",".join(self.candidates if steered else _rotated(self.candidates, turn))
        """The correct pick; empty when no endpoint is eligible."""


def header_map(headers: HeaderMap) -> dict[str, str]:
    """Header values by lower-case name, from `raw_value` or `value`."""
    return {
        h.key.lower(): (h.raw_value or h.value.encode()).decode("latin-1") for h in headers.headers
    }


def _subset(message: ProcessingRequest) -> tuple[str, ...] | None:
    """The subset hint, from a list or a comma-separated string; None if there is none."""
    namespaces = message.metadata_context.filter_metadata
    if SUBSET_NAMESPACE not in namespaces or SUBSET not in namespaces[SUBSET_NAMESPACE].fields:
        return None
    value: Value = namespaces[SUBSET_NAMESPACE].fields[SUBSET]
    if value.WhichOneof("kind") == "list_value":
        return tuple(entry.string_value for entry in value.list_value.values)
    return tuple(entry.strip() for entry in value.string_value.split(",") if entry.strip())


def _steered(
    headers: dict[str, str], endpoints: Sequence[str], subset: tuple[str, ...] | None
) -> list[str]:
    eligible = [e for e in endpoints if subset is None or e in subset]
    if STEERING not in headers:
        return eligible
    names = [name.strip() for name in headers[STEERING].split(",")]
    return [e for name in names for e in eligible if name in (e, e.rpartition(":")[0])]


def _rotated(candidates: Sequence[str], turn: int) -> list[str]:
    return [candidates[turn % len(candidates)]] if candidates else []


def streamed(
    body: bytes, *, end: bool = True, response: bool = False, size: int = CHUNK
) -> list[ProcessingResponse]:
    """StreamedBodyResponses of at most `size` bytes, at least one. The last has `end`."""
    replies: list[ProcessingResponse] = []
    starts = range(0, max(len(body), 1), size)
    for start in starts:
        reply = ProcessingResponse()
        part = reply.response_body if response else reply.request_body
        chunk = part.response.body_mutation.streamed_response
        chunk.body = body[start : start + size]
        chunk.end_of_stream = end and start == starts[-1]
        replies.append(reply)
    return replies


def unchanged(*, response: bool = False) -> ProcessingResponse:
    """lwepp v1.6.0's body answer: a BodyResponse with an empty CommonResponse."""
    reply = ProcessingResponse()
    (reply.response_body if response else reply.request_body).response.SetInParent()
    return reply


def refusal(status: int) -> ProcessingResponse:
    """An ImmediateResponse."""
    reply = ProcessingResponse()
    reply.immediate_response.status.code = status
    reply.immediate_response.body = b"the picker refuses"
    return reply


def set_header(mutation: HeaderMutation, key: str, value: str, *, raw: bool = True) -> None:
    """Add one header to a mutation, in `raw_value` or in `value`."""
    header = mutation.set_headers.add().header
    header.key = key
    if raw:
        header.raw_value = value.encode()
    else:
        header.value = value
