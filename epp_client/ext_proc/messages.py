"""Locates the kind, the end-of-stream flag and the body of ext_proc messages without parsing them.

Pure. A body's payload is never copied: a relayed chunk of 1 MiB costs a walk over a dozen tags. Field
numbers are those of `protos/ext_proc.proto`. Headers and metadata are read with the compiled protobuf
classes instead.
"""

from enum import IntEnum
from typing import Final, final

from librt.strings import BytesWriter
from mypy_extensions import i64, mypyc_attr, u8

from epp_client.errors import EnvoyViolation, MalformedMessage, PickerViolation

POOL_KEY = "x-inference-pool"
"""Key in the gRPC initial metadata of the ext_proc stream: `<namespace>/<name>` of the route's pool."""


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
    STREAMED_IMMEDIATE = 11
    MORE_TIME = 10
    """Not an answer but the field `override_message_timeout`."""


class BodyForm(IntEnum):
    """The form of a picker's body answer."""

    STREAMED = 0
    """A StreamedBodyResponse: the only form that Envoy accepts in FULL_DUPLEX_STREAMED mode."""
    UNCHANGED = 1
    """An empty CommonResponse (lwepp v1.6.0) or `clear_body: false`: the answered chunk stays as it is."""
    REPLACED = 2
    """A complete `body`, or `clear_body: true`, replaces the answered chunk."""


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Message:
    """A message of Envoy. `raw[start:end]` is the payload of a body message."""

    __slots__ = ("end", "end_of_stream", "headers_only", "phase", "raw", "start")

    def __init__(
        self,
        phase: Phase,
        end_of_stream: bool,
        raw: bytes,
        start: int,
        end: int,
        headers_only: bool = False,
    ) -> None:
        self.phase = phase
        self.end_of_stream = end_of_stream
        # Whether Envoy keeps the body of the request to itself, as its body mode is NONE.
        self.headers_only = headers_only
        self.raw = raw
        self.start = start
        self.end = end


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Reply:
    """A message of the picker. `raw[start:end]` is the payload of a body answer."""

    __slots__ = ("answer", "end", "end_of_stream", "form", "has_more", "raw", "start")

    def __init__(
        self,
        answer: Answer,
        raw: bytes,
        form: BodyForm = BodyForm.STREAMED,
        end_of_stream: bool = False,
        start: int = 0,
        end: int = 0,
        has_more: bool = False,
    ) -> None:
        self.answer = answer
        self.raw = raw
        self.form = form
        self.end_of_stream = end_of_stream
        self.start = start
        self.end = end
        # Whether it has metadata, or any other field besides the body.
        self.has_more = has_more


_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_LARGEST_TAG: Final = 0xFFFF_FFFF
_LONGEST: Final = 5
"""Bytes of a tag or of a length, as protobuf limits them."""
# Lists by field number: compiled, looking one up takes a tenth of the time of a dictionary.
_PHASES: Final = [Phase(number) if number > 1 else None for number in range(8)]
_ANSWERS: Final = [Answer(n) if 1 <= n <= 7 or n == 11 else None for n in range(12)]
_PROTOCOL_CONFIG: Final = 11
"""Field of ProcessingRequest: the body modes, in the first message of a stream."""


_REQUEST_HEADERS: Final = int(Phase.REQUEST_HEADERS)
_HEADERS_ENDED: Final = b"\x18\x01"
"""HttpHeaders.end_of_stream."""
_BODY_ENDED: Final = b"\x10\x01"
"""HttpBody.end_of_stream."""


FIXED: Final = 0
"""Returned as the number of a field of fixed size. We need no such field of ext_proc."""


_MORE_TIME: Final = int(Answer.MORE_TIME)
# Constants, because a member of an enum is looked up in a dictionary.
_STREAMED: Final = BodyForm.STREAMED
_UNCHANGED: Final = BodyForm.UNCHANGED
_REPLACED: Final = BodyForm.REPLACED


def varint(value: int) -> bytes:
    """A number in protobuf's encoding."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(raw: bytes, at: i64, end: i64) -> tuple[i64, i64]:
    value: i64 = 0
    shift: i64 = 0
    while at < end and shift < 64:
        byte: i64 = raw[at]
        at += 1
        # The tenth byte has one bit; protobuf drops the others.
        value |= (byte & (0x7F if shift < 63 else 1)) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise MalformedMessage("a varint is cut off or too long")


def next_field(raw: bytes, at: i64, end: i64) -> tuple[i64, i64, i64, i64]:
    """Read the field of `raw[at:end]` that begins at `at`: returns its number, start and end, and where the
    next field begins. For a varint, start is its value and end is -1. Compiled, a walk over the fields
    creates no objects.

    Raises:
        MalformedMessage: `raw` is not protobuf.
    """
    tag: i64 = raw[at]
    if tag < 0x80:
        at += 1
    else:
        tag, at = _varint(raw, at, min(end, at + _LONGEST))
    if tag < 8 or tag > _LARGEST_TAG:
        raise MalformedMessage("a field without a number, or with one that is too large")
    wire_type = tag & 7
    if wire_type == _BYTES:
        size: i64 = raw[at] if at < end else 0x80
        if size < 0x80:
            at += 1
        elif at + 1 < end and raw[at + 1] < 0x80:
            size = size & 0x7F | i64(raw[at + 1]) << 7
            at += 2
        else:
            size, at = _varint(raw, at, min(end, at + _LONGEST))
        if size > end - at:
            raise MalformedMessage("a field is longer than its message")
        stop = at + size
        return tag >> 3, at, stop, stop
    if wire_type == _VARINT:
        value, at = _varint(raw, at, end)
        return tag >> 3, value, -1, at
    if wire_type == _FIXED64:
        at += 8
    elif wire_type == _FIXED32:
        at += 4
    else:
        raise MalformedMessage(f"wire type {wire_type} does not exist in proto3")
    if at > end:
        raise MalformedMessage("a field is longer than its message")
    return FIXED, 0, -1, at


def read_message(raw: bytes) -> Message:
    """Locate the phase and the body of a ProcessingRequest.

    Raises:
        EnvoyViolation: `raw` is not protobuf, or does not have exactly one phase.
    """
    try:
        phase: Phase | None = None
        start: i64 = 0
        end: i64 = 0
        at: i64 = 0
        modes: i64 = 0
        modes_end: i64 = -1
        size: i64 = len(raw)
        while at < size:
            number, field_start, field_end, at = next_field(raw, at, size)
            if 2 <= number <= 7:
                if phase is not None or field_end < 0:
                    raise MalformedMessage("a ProcessingRequest must carry one phase")
                phase, start, end = _PHASES[number], field_start, field_end
            elif number == _PROTOCOL_CONFIG:
                modes, modes_end = field_start, field_end
        if phase is None:
            raise MalformedMessage("a ProcessingRequest must carry one phase")
        if phase is Phase.REQUEST_BODY or phase is Phase.RESPONSE_BODY:
            ended, start, end = _read_body(raw, start, end)
            return Message(phase, ended, raw, start, end)
        if phase is Phase.REQUEST_TRAILERS or phase is Phase.RESPONSE_TRAILERS:
            return Message(phase, True, raw, 0, 0)
        ended = False
        while start < end:
            number, value, kind, start = next_field(raw, start, end)
            if number == 3 and kind < 0 and value:
                ended = True
        headers_only = (
            phase is Phase.REQUEST_HEADERS
            and modes_end >= 0
            and not _sends_bodies(raw, modes, modes_end)
        )
        return Message(phase, ended, raw, 0, 0, headers_only)
    except MalformedMessage as error:
        raise EnvoyViolation(str(error)) from error


def _sends_bodies(raw: bytes, at: i64, end: i64) -> bool:
    """Whether the `request_body_mode` of a ProtocolConfiguration is not NONE, which is 0."""
    while at < end:
        number, value, kind, at = next_field(raw, at, end)
        if number == 1 and kind < 0:
            return value != 0
    return False


def with_end_of_stream(raw: bytes) -> bytes:
    """A ProcessingRequest with headers of a request, with `end_of_stream` set. Other fields are copied.

    Raises:
        EnvoyViolation: `raw` is not protobuf, or has no headers of a request.
    """
    try:
        return _flagged(raw, _REQUEST_HEADERS, _HEADERS_ENDED)[0]
    except MalformedMessage as error:
        raise EnvoyViolation(str(error)) from error


def ended(part: Message) -> Message:
    """A part of a body that does not end it, with `end_of_stream` set."""
    raw, shift = _flagged(part.raw, part.phase, _BODY_ENDED)
    return Message(part.phase, True, raw, part.start + shift, part.end + shift)


def _flagged(raw: bytes, phase: i64, flag: bytes) -> tuple[bytes, i64]:
    """A ProcessingRequest with `flag` at the end of its phase, and how far that field has moved.

    Raises:
        MalformedMessage: `raw` is not protobuf, or has another phase.
    """
    at: i64 = 0
    size: i64 = len(raw)
    while at < size:
        begin = at
        number, start, end, at = next_field(raw, at, size)
        if number == phase and end >= 0:
            out = BytesWriter()
            if begin:
                out.write(raw[:begin])
            out.append(u8(phase << 3 | _BYTES))
            length = end - start + len(flag)
            while length > 0x7F:
                out.append(u8(length & 0x7F | 0x80))
                length >>= 7
            out.append(u8(length))
            shift = len(out) - start
            out.write(raw[start:end])
            out.write(flag)
            if end < size:
                out.write(raw[end:])
            return out.getvalue(), shift
    raise MalformedMessage("a message without the phase that it should end")


def read_reply(raw: bytes) -> Reply:
    """Locate the answer and the body of a ProcessingResponse.

    Raises:
        PickerViolation: `raw` is not protobuf, or does not have exactly one answer.
    """
    try:
        answer: Answer | None = None
        start: i64 = 0
        end: i64 = 0
        at: i64 = 0
        size: i64 = len(raw)
        has_more = asks_for_time = False
        while at < size:
            number, field_start, field_end, at = next_field(raw, at, size)
            if 1 <= number <= 7 or number == 11:
                if answer is not None or field_end < 0:
                    raise MalformedMessage("a ProcessingResponse must carry one answer")
                answer, start, end = _ANSWERS[number], field_start, field_end
            elif 8 <= number <= 12:
                # Metadata, or about the ext_proc stream itself.
                has_more = True
                if number == _MORE_TIME:
                    asks_for_time = True
        if answer is None:
            if asks_for_time:
                return Reply(Answer.MORE_TIME, raw)
            raise MalformedMessage("a ProcessingResponse must carry one answer")
        if answer is not Answer.REQUEST_BODY and answer is not Answer.RESPONSE_BODY:
            return Reply(answer, raw, has_more=has_more)
        return _read_body_answer(answer, raw, start, end, has_more)
    except MalformedMessage as error:
        raise PickerViolation(str(error)) from error


def _read_body_answer(answer: Answer, raw: bytes, start: i64, end: i64, has_more: bool) -> Reply:
    """Descend to the mutation in BodyResponse.response.body_mutation; the first of each field counts."""
    start, end, count = _first(raw, start, end, 1)
    has_more = has_more or count > 1
    if end >= 0:
        start, end, count = _first(raw, start, end, 3)
        has_more = has_more or count > 1
    if end < 0:
        return Reply(answer, raw, _UNCHANGED, has_more=has_more)
    form = _UNCHANGED
    ended = found = False
    at, stop, count = start, end, 0
    start = end = 0
    while at < stop:
        number, field_start, field_end, at = next_field(raw, at, stop)
        count += 1
        if found:
            continue
        if number == 3 and field_end >= 0:
            found, form = True, _STREAMED
            ended, start, end = _read_body(raw, field_start, field_end)
        elif number == 1 and field_end >= 0:
            found, form, start, end = True, _REPLACED, field_start, field_end
        elif number == 2 and field_end < 0:
            found, form = True, _REPLACED if field_start else _UNCHANGED
    return Reply(answer, raw, form, ended, start, end, has_more or count > 1)


def _first(raw: bytes, at: i64, end: i64, wanted: i64) -> tuple[i64, i64, i64]:
    """Start and end of the first field `wanted` (end -1 if missing), and the number of all fields."""
    start: i64 = 0
    stop: i64 = -1
    count: i64 = 0
    while at < end:
        number, field_start, field_end, at = next_field(raw, at, end)
        count += 1
        if number == wanted and stop < 0 <= field_end:
            start, stop = field_start, field_end
    return start, stop, count


def _read_body(raw: bytes, at: i64, end: i64) -> tuple[bool, i64, i64]:
    """Whether an HttpBody or StreamedBodyResponse ends the body, and the place of its payload."""
    ended = False
    body_start: i64 = 0
    body_end: i64 = 0
    while at < end:
        number, field_start, field_end, at = next_field(raw, at, end)
        if number == 1 and field_end >= 0:
            body_start, body_end = field_start, field_end
        elif number == 2 and field_end < 0:
            ended = field_start != 0
    return ended, body_start, body_end
