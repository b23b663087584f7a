"""Reads picks and served endpoints of the usual shape without parsing the message. Pure.

upb creates an object for every header and metadata value that is read, which costs more than all decisions
about a request. These functions walk to the one value instead. They return None for any other shape, and
callers then parse the whole message. Field numbers are those of `protos/ext_proc.proto` and of protobuf's
Struct.
"""

from typing import Final

from mypy_extensions import i64

from epp_client.errors import EnvoyViolation, MalformedMessage
from epp_client.ext_proc.messages import next_field

_HEADERS: Final = 1
_METADATA: Final = 8
_STRING: Final = 3


def plain_pick(raw: bytes, namespace: bytes, key: bytes) -> str | None:
    """The destination of a header answer with the same destination in header and metadata, and nothing
    else; None for every other answer."""
    try:
        return _plain_pick(raw, namespace, key)
    except (MalformedMessage, UnicodeDecodeError):
        return None


def _plain_pick(raw: bytes, namespace: bytes, key: bytes) -> str | None:
    headers: i64 = 0
    headers_end: i64 = -1
    metadata: i64 = 0
    metadata_end: i64 = -1
    at: i64 = 0
    size: i64 = len(raw)
    while at < size:
        number, start, end, at = next_field(raw, at, size)
        if number == _HEADERS and headers_end < 0 <= end:
            headers, headers_end = start, end
        elif number == _METADATA and metadata_end < 0 <= end:
            metadata, metadata_end = start, end
        else:
            return None
    if headers_end < 0 or metadata_end < 0:
        return None
    steered = _only_string(raw, metadata, metadata_end, namespace, key)
    # Descend into CommonResponse and HeaderMutation.
    headers, headers_end = _only(raw, headers, headers_end, 1)
    if headers_end >= 0:
        headers, headers_end = _only(raw, headers, headers_end, 2)
    if headers_end < 0 or not steered:
        return None
    found = False
    while headers < headers_end:
        number, start, end, headers = next_field(raw, headers, headers_end)
        # Other or removed headers have to be checked: not the plain shape.
        if number != 1 or end < 0 or not _sets(raw, start, end, key, steered):
            return None
        found = True
    return steered.decode() if found else None


def plain_served(raw: bytes, namespace: bytes, key: bytes) -> str | None:
    """The string `metadata_context.filter_metadata[namespace][key]` of a ProcessingRequest; None if it is
    missing or of another shape.

    Raises:
        EnvoyViolation: `raw` is not protobuf.
    """
    try:
        return _plain_served(raw, namespace, key)
    except (MalformedMessage, UnicodeDecodeError) as error:
        raise EnvoyViolation(str(error)) from error


def _plain_served(raw: bytes, namespace: bytes, key: bytes) -> str | None:
    found: str | None = None
    at: i64 = 0
    size: i64 = len(raw)
    while at < size:
        number, start, end, at = next_field(raw, at, size)
        if number != _METADATA:
            continue
        while start < end:
            number, entry, entry_end, start = next_field(raw, start, end)
            if number != 1 or entry_end < 0:
                continue
            item, items_end = _value(raw, entry, entry_end, namespace)
            while item < items_end:
                number, inner, inner_end, item = next_field(raw, item, items_end)
                if number != 1 or inner_end < 0:
                    continue
                text, text_end = _value(raw, inner, inner_end, key)
                if text_end >= 0:
                    text, text_end = _only(raw, text, text_end, _STRING)
                    if text_end < 0 or found is not None:
                        return None
                    found = raw[text:text_end].decode()
    return found


def _only(raw: bytes, at: i64, end: i64, wanted: i64) -> tuple[i64, i64]:
    """Start and end of a message's only field; end is -1 if it is another field or there are more."""
    if at < end:
        number, start, stop, after = next_field(raw, at, end)
        # No conditional expression, which would make an object of the tuple.
        if number == wanted and after == end:
            return start, stop
    return 0, -1


def _value(raw: bytes, at: i64, end: i64, wanted: bytes) -> tuple[i64, i64]:
    """Start and end of a map entry's value; end is -1 if the key differs, or either is missing or
    repeated."""
    key: i64 = 0
    key_end: i64 = -1
    value: i64 = 0
    value_end: i64 = -1
    count = 0
    while at < end:
        number, start, stop, at = next_field(raw, at, end)
        count += 1
        if number == 1:
            key, key_end = start, stop
        elif number == 2:
            value, value_end = start, stop
    if count == 2 and key_end >= 0 and raw[key:key_end] == wanted:
        return value, value_end
    return 0, -1


def _only_string(raw: bytes, at: i64, end: i64, namespace: bytes, key: bytes) -> bytes | None:
    """The string at `struct[namespace][key]`, if each of the two has only that field."""
    for wanted in (namespace, key):
        at, end = _only(raw, at, end, 1)
        if end >= 0:
            at, end = _value(raw, at, end, wanted)
        if end >= 0 and wanted is namespace:
            # The number of `struct_value`.
            at, end = _only(raw, at, end, 5)
        if end < 0:
            return None
    at, end = _only(raw, at, end, _STRING)
    return None if end < 0 else raw[at:end]


def _sets(raw: bytes, at: i64, end: i64, key: bytes, text: bytes) -> bool:
    """Whether a HeaderValueOption sets `key` to `text`, in only one of its two value fields."""
    values = 0
    named = False
    while at < end:
        number, start, stop, at = next_field(raw, at, end)
        if number != 1:
            continue
        while start < stop:
            number, part, part_end, start = next_field(raw, start, stop)
            if number == 1 and part_end >= 0:
                name = raw[part:part_end]
                named = name == key or name.lower() == key
            elif (number == 2 or number == 3) and part_end > part:
                if raw[part:part_end] != text:
                    return False
                values += 1
    return named and values == 1
