"""Reads what identifies a request from its headers: ids and the model. Pure.

Only requests that are recorded or refused are read, so the messages are parsed as a whole.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderValue, ProcessingRequest, ProcessingResponse

REQUEST_ID: Final = "x-request-id"
"""Envoy sets it, and does not accept it from clients unless told to."""
TRACE_PARENT: Final = "traceparent"
"""W3C Trace Context: `version-traceid-spanid-flags`."""
MODEL_NAMES: Final = ("x-gateway-model-name-rewrite", "x-gateway-model-name")
"""GAIE's headers with the model of a request, the final name first."""

LONGEST: Final = 128
"""Characters of an identifier."""
_TYPE: Final = "content-type"
_TRACE: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)
_UNPRINTABLE: Final = re.compile(r"[^\x21-\x7e]")


class Identity(NamedTuple):
    """What identifies a request. Empty strings for what its headers do not have."""

    request_id: str
    trace_id: str
    """32 hexadecimal digits."""
    model: str
    grpc: bool
    """Whether it belongs to a gRPC call."""
    span_id: str = ""
    """The parent span: 16 hexadecimal digits."""
    sampled: bool = False
    """Whether the parent span is sampled."""


NOBODY: Final = Identity("", "", "", False)


def identify(request: bytes, answer: bytes = b"", context: str = "") -> Identity:
    """The identity of a request. `request` is Envoy's message with its headers; `answer` the picker's
    answer to it. Either may be empty. `context` is the `traceparent` of Envoy's stream, if Envoy traces: it
    comes before that of the headers, which is the client's. Values are cut to `LONGEST` characters, and
    have no spaces or control characters. Of a message that is not protobuf nothing is known."""
    found: dict[str, str] = {}
    try:
        headers = ProcessingRequest.FromString(request).request_headers.headers.headers
        _take(headers, (REQUEST_ID, TRACE_PARENT, _TYPE, *MODEL_NAMES), found)
        reply = ProcessingResponse.FromString(answer)
        options = reply.request_headers.response.header_mutation.set_headers
        _take((option.header for option in options), MODEL_NAMES, found)
    except DecodeError:
        return NOBODY
    trace = _TRACE.fullmatch(context) or _TRACE.fullmatch(found.get(TRACE_PARENT, ""))
    model = next((found[name] for name in MODEL_NAMES if name in found), "")
    return Identity(
        request_id=found.get(REQUEST_ID, "")[:LONGEST],
        trace_id=trace[1] if trace else "",
        model=model[:LONGEST],
        grpc=found.get(_TYPE, "").startswith("application/grpc"),
        span_id=trace[2] if trace else "",
        sampled=trace is not None and int(trace[3], 16) & 1 == 1,
    )


_NO_CONTEXT: Final[Mapping[str, str]] = {}
_CONTEXT: Final = (TRACE_PARENT, "tracestate", "baggage")


def trace_context(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """The trace context in the metadata of Envoy's stream, for that of the picker's: as if Envoy asked the
    picker itself."""
    if TRACE_PARENT not in metadata:
        return _NO_CONTEXT
    return {name: metadata[name] for name in _CONTEXT if name in metadata}


def _take(headers: Iterable[HeaderValue], names: tuple[str, ...], found: dict[str, str]) -> None:
    for header in headers:
        name = header.key.lower()
        if name in names:
            value = header.raw_value.decode("latin-1") or header.value
            found[name] = _UNPRINTABLE.sub("", value[:512])
