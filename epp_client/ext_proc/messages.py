"""Reading ext_proc messages without decoding them: which kind, whether the stream ends, where the body is.

Pure. A body's payload is never copied here, only located: a relayed 1 MiB chunk costs a walk over a
dozen tags. Field numbers are those of `protos/ext_proc.proto`. Whatever needs a header or metadata
value parses the message with the compiled classes instead.
"""

from enum import IntEnum
from typing import NamedTuple

from epp_client.errors import MalformedMessage

POOL_KEY = "x-inference-pool"
"""gRPC initial metadata of the ext_proc stream: `<namespace>/<name>` of the route's pool."""


class Phase(IntEnum):
    """The `request` oneof of ProcessingRequest, by field number."""

    REQUEST_HEADERS = 2
    RESPONSE_HEADERS = 3
    REQUEST_BODY = 4
    RESPONSE_BODY = 5
    REQUEST_TRAILERS = 6
    RESPONSE_TRAILERS = 7


class Answer(IntEnum):
    """The `response` oneof of ProcessingResponse, by field number."""

    REQUEST_HEADERS = 1
    RESPONSE_HEADERS = 2
    REQUEST_BODY = 3
    RESPONSE_BODY = 4
    REQUEST_TRAILERS = 5
    RESPONSE_TRAILERS = 6
    IMMEDIATE = 7


class BodyForm(IntEnum):
    """What a picker's body answer says."""

    STREAMED = 0
    """A StreamedBodyResponse: the only form that Envoy accepts in FULL_DUPLEX_STREAMED mode."""
    UNCHANGED = 1
    """An empty CommonResponse (lwepp v1.6.0): the chunk it answers stays as it was."""
    REPLACED = 2
    """A whole `body`, or `clear_body`, in place of the chunk it answers."""


class Message(NamedTuple):
    """One message of Envoy's. `start:end` is the payload of a body message within `raw`."""

    phase: Phase
    end_of_stream: bool
    raw: bytes
    start: int
    end: int


class Reply(NamedTuple):
    """One message of the picker's. `start:end` is the payload of a body answer within `raw`."""

    answer: Answer
    raw: bytes
    form: BodyForm = BodyForm.STREAMED
    end_of_stream: bool = False
    start: int = 0
    end: int = 0
    has_metadata: bool = False


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PHASES = {int(phase): phase for phase in Phase}
_ANSWERS = {int(answer): answer for answer in Answer}
_DYNAMIC_METADATA = 8


def _varint(raw: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise MalformedMessage("a varint is cut off or too long")


def _fields(raw: bytes, at: int, end: int) -> list[tuple[int, int, int]]:
    """Split `raw[at:end]` into (field number, start, end); a varint field gives (number, value, -1)."""
    fields: list[tuple[int, int, int]] = []
    while at < end:
        tag = raw[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _varint(raw, at, end)
        wire_type = tag & 7
        if wire_type == _BYTES:
            if at < end and raw[at] < 0x80:
                size = raw[at]
                at += 1
            else:
                size, at = _varint(raw, at, end)
            if at + size > end:
                raise MalformedMessage("a field is longer than its message")
            fields.append((tag >> 3, at, at + size))
            at += size
        elif wire_type == _VARINT:
            value, at = _varint(raw, at, end)
            fields.append((tag >> 3, value, -1))
        elif wire_type in (_FIXED64, _FIXED32):
            at += 8 if wire_type == _FIXED64 else 4
            if at > end:
                raise MalformedMessage("a field is longer than its message")
        else:
            raise MalformedMessage(f"wire type {wire_type} does not exist in proto3")
    return fields


def read_message(raw: bytes) -> Message:
    """Locate what matters in one ProcessingRequest.

    Raises:
        MalformedMessage: not protobuf, or none or two of the phases in one message.
    """
    phase: Phase | None = None
    start = end = 0
    for number, field_start, field_end in _fields(raw, 0, len(raw)):
        if number in _PHASES:
            if phase is not None or field_end < 0:
                raise MalformedMessage("a ProcessingRequest must carry one phase")
            phase, start, end = _PHASES[number], field_start, field_end
    if phase is None:
        raise MalformedMessage("a ProcessingRequest must carry one phase")
    if phase >= Phase.REQUEST_TRAILERS:
        return Message(phase, True, raw, 0, 0)
    if phase <= Phase.RESPONSE_HEADERS:
        ended = any(
            number == 3 and kind < 0 and value for number, value, kind in _fields(raw, start, end)
        )
        return Message(phase, ended, raw, 0, 0)
    body_start = body_end = 0
    ended = False
    for number, field_start, field_end in _fields(raw, start, end):
        if number == 1 and field_end >= 0:
            body_start, body_end = field_start, field_end
        elif number == 2 and field_end < 0:
            ended = bool(field_start)
    return Message(phase, ended, raw, body_start, body_end)


def read_reply(raw: bytes) -> Reply:
    """Locate what matters in one ProcessingResponse.

    Raises:
        MalformedMessage: not protobuf, or none or two of the answers in one message.
    """
    answer: Answer | None = None
    start = end = 0
    has_metadata = False
    for number, field_start, field_end in _fields(raw, 0, len(raw)):
        if number in _ANSWERS:
            if answer is not None or field_end < 0:
                raise MalformedMessage("a ProcessingResponse must carry one answer")
            answer, start, end = _ANSWERS[number], field_start, field_end
        elif number == _DYNAMIC_METADATA:
            has_metadata = True
    if answer is None:
        raise MalformedMessage("a ProcessingResponse must carry one answer")
    if answer not in (Answer.REQUEST_BODY, Answer.RESPONSE_BODY):
        return Reply(answer, raw, has_metadata=has_metadata)
    form, ended, start, end = _read_body_answer(raw, start, end)
    return Reply(answer, raw, form, ended, start, end, has_metadata)


def _read_body_answer(raw: bytes, start: int, end: int) -> tuple[BodyForm, bool, int, int]:
    """Descend BodyResponse.response.body_mutation to the mutation itself."""
    for wanted in (1, 3):
        for number, field_start, field_end in _fields(raw, start, end):
            if number == wanted and field_end >= 0:
                start, end = field_start, field_end
                break
        else:
            return BodyForm.UNCHANGED, False, 0, 0
    for number, field_start, field_end in _fields(raw, start, end):
        if number == 3 and field_end >= 0:
            return BodyForm.STREAMED, *_read_streamed(raw, field_start, field_end)
        if number == 1 and field_end >= 0:
            return BodyForm.REPLACED, False, field_start, field_end
        if number == 2:
            return BodyForm.REPLACED, False, 0, 0
    return BodyForm.UNCHANGED, False, 0, 0


def _read_streamed(raw: bytes, start: int, end: int) -> tuple[bool, int, int]:
    ended = False
    body_start = body_end = 0
    for number, field_start, field_end in _fields(raw, start, end):
        if number == 1 and field_end >= 0:
            body_start, body_end = field_start, field_end
        elif number == 2 and field_end < 0:
            ended = bool(field_start)
    return ended, body_start, body_end
