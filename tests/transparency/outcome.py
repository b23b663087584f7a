"""What became of one case, as flat fields that can be compared. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from itertools import groupby

from google.protobuf.json_format import MessageToDict

from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderMap, ProcessingRequest, ProcessingResponse
from tests.transparency.kinds import DATE, Fields
from tests.transparency.received import Received

Outcome = dict[str, object]
"""Values by field, such as `client.status`, `model.header.host` or `picker.response_body`."""

_BY_CHANCE = frozenset({"x-request-id", "x-envoy-upstream-service-time"})
"""Headers whose value is another for each request."""
_SHORT = 60


def outcome_of(
    client: Received | None,
    model: Iterable[Received],
    picker: Iterable[tuple[list[ProcessingRequest], list[ProcessingResponse]]],
    *,
    held_back: bool,
) -> Outcome:
    """Flatten what the client got, what the model server got and what the picker saw."""
    outcome: Outcome = {"answer.held_back": held_back}
    _add_received(outcome, "client", client)
    requests = list(model)
    outcome["model.requests"] = len(requests)
    for request in requests[:1]:
        _add_received(outcome, "model", request)
    conversations = list(picker)
    outcome["picker.streams"] = len(conversations)
    for asked, _ in conversations[-1:]:
        _add_asked(outcome, asked)
    return outcome


def _add_received(outcome: Outcome, end: str, received: Received | None) -> None:
    if received is None:
        outcome[f"{end}.end"] = "nothing"
        return
    outcome[f"{end}.end"] = received.end
    outcome[f"{end}.framing"] = received.framing
    outcome[f"{end}.body"] = shortened(bytes(received.body))
    if end == "client":
        outcome["client.interim"] = received.interim
    for name, value in received.start.items():
        outcome[f"{end}.{name}"] = value
    _add_fields(outcome, f"{end}.header", received.headers)
    _add_fields(outcome, f"{end}.trailer", received.trailers)


def _add_fields(outcome: Outcome, prefix: str, fields: Fields) -> None:
    """Values by name, in order; the order of different names means nothing in HTTP."""
    by_name: dict[str, tuple[str, ...]] = {}
    for name, value in fields:
        # The model servers' date is a fixed one; another is Envoy's own.
        by_chance = name in _BY_CHANCE or (name == "date" and value != DATE)
        said = "by chance" if by_chance else value
        by_name[name] = (*by_name.get(name, ()), said)
    for name, values in by_name.items():
        outcome[f"{prefix}.{name}"] = values


def _add_asked(outcome: Outcome, asked: list[ProcessingRequest]) -> None:
    phases = [message.WhichOneof("request") or "" for message in asked]
    outcome["picker.phases"] = tuple(phase for phase, _ in groupby(phases))
    for phase, messages in groupby(asked, key=lambda message: message.WhichOneof("request") or ""):
        body = bytearray()
        ends = 0
        for message in messages:
            _add_context(outcome, f"picker.{phase}", message)
            part = getattr(message, phase)
            if phase.endswith("_body"):
                body += part.body
                ends += part.end_of_stream
            elif phase.endswith("_headers"):
                _add_fields(outcome, f"picker.{phase}.header", _fields(part.headers))
                outcome[f"picker.{phase}.end_of_stream"] = part.end_of_stream
            else:
                _add_fields(outcome, f"picker.{phase}.trailer", _fields(part.trailers))
        if phase.endswith("_body"):
            outcome[f"picker.{phase}"] = shortened(bytes(body))
            outcome[f"picker.{phase}.ends"] = ends


def _add_context(outcome: Outcome, prefix: str, message: ProcessingRequest) -> None:
    for namespace, fields in message.metadata_context.filter_metadata.items():
        outcome[f"{prefix}.metadata.{namespace}"] = MessageToDict(fields)
    for filter_name, fields in message.attributes.items():
        outcome[f"{prefix}.attributes.{filter_name}"] = MessageToDict(fields)
    rest = ProcessingRequest()
    rest.CopyFrom(message)
    rest.ClearField(message.WhichOneof("request") or "request_headers")
    rest.ClearField("metadata_context")
    rest.ClearField("attributes")
    if unread := rest.SerializeToString():
        outcome[f"{prefix}.unread"] = unread


def _fields(headers: HeaderMap) -> Fields:
    return tuple(
        (header.key, (header.raw_value or header.value.encode()).decode("latin-1"))
        for header in headers.headers
    )


def shortened(body: bytes) -> str:
    """Equal for equal bodies, and readable where they differ."""
    digest = hashlib.sha256(body).hexdigest()[:12]
    return f"{len(body)} bytes, sha256 {digest}, {body[:_SHORT]!r}"


def differing(
    one: Mapping[str, object], other: Mapping[str, object]
) -> dict[str, tuple[object, object]]:
    """The fields that differ, with both values; None where there is no such field."""
    names = sorted({*one, *other})
    return {
        name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)
    }
