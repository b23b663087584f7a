"""Removes from a picker's header mutations what Envoy cannot apply, and what would break HTTP. Pure.

One bad entry makes Envoy fail the request or lose the response. Envoy applies other entries that break the
message for the next hop. Both kinds are left out and counted. The rules come from tests of Envoy 1.40 with
a picker and no sidecar (`tests/e2e/test_answers.py`). Envoy removes headers first, then sets them in order.
It ignores `append_action` and `keep_empty_value`, and uses the deprecated `append`. It reads `raw_value`
only. It removes `content-length` where a body is processed, and does not count it.
"""

import re
from enum import IntEnum
from typing import Final

from epp_client.errors import LeftOut, PickerViolation
from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderMap, HeaderMutation, HeaderValueOption
from epp_client.picker.protocol import DESTINATION, parse_request

MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 60 * 1024
MAX_HTTP1_RESPONSE_BYTES: Final = 80 * 1024
"""Envoy's default limits for the headers of one message. Bytes are those of names and values together. The
limit for the response of an HTTP/1.1 upstream is higher."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PATH: Final = re.compile(rb"/[\x21-\x7e\x80-\xff]*|\*")
_AUTHORITY: Final = re.compile(rb"[!-.0-~]+")
_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")
_STATUS: Final = re.compile(rb"[2-5][0-9][0-9]")
_REQUEST_PSEUDO: Final = {
    ":path": _PATH,
    ":method": _METHOD,
    ":authority": _AUTHORITY,
    ":scheme": _SCHEME,
    "host": _AUTHORITY,
}
"""Envoy always sets `:path`. It sets the others only if its `mutation_rules` allow them."""

FRAMING: Final = frozenset(("content-length", "transfer-encoding"))
"""Envoy frames the message itself. Real pickers often send these, so they are removed without counting."""
CONNECTION: Final = frozenset(
    ("connection", "http2-settings", "keep-alive", "proxy-connection", "te", "upgrade")
)
_KEPT: Final = frozenset(("connection", "content-length", "host", "transfer-encoding", "upgrade"))
"""Headers that cannot be removed. Pseudo-headers cannot be removed either."""

_FEW: Final = 8
"""A mutation smaller than 1/8 of Envoy's limits is not checked together with the original headers."""

Omissions = dict[LeftOut, tuple[int, str]]
"""For each kind: how many entries were left out, and the name of the first."""


class Part(IntEnum):
    """The part of a message that a mutation changes."""

    REQUEST = 0
    RESPONSE = 1
    TRAILERS = 2
    IMMEDIATE = 3


def leave_out(omissions: Omissions, what: LeftOut, name: str) -> None:
    """Count an entry that was left out. `name` is for the log line."""
    count, first = omissions.get(what, (0, name[:80]))
    omissions[what] = count + 1, first


def sanitise(
    mutation: HeaderMutation,
    original: bytes,
    part: Part,
    omissions: Omissions,
    limit: int = MAX_HEADER_BYTES,
) -> bool:
    """Remove from `mutation` what cannot be applied. Returns whether anything was removed.

    `original` is Envoy's message with the headers to be changed, or empty if there is none. `limit` is the
    largest size of the headers that Envoy accepts, in bytes. A destination in request headers is not
    checked here: it is judged and written again later.

    Raises:
        PickerViolation: the message would have more headers than Envoy accepts.
    """
    return _Change(mutation, original, part, omissions, limit).made()


def sanitise_whole(headers: HeaderMap, part: Part, omissions: Omissions) -> None:
    """Remove invalid entries from the complete headers or trailers of a picker's own response. The rules
    are those of `sanitise` for added headers.

    Raises:
        PickerViolation: there are more headers than Envoy accepts.
    """
    mutation = HeaderMutation()
    for header in headers.headers:
        option = mutation.set_headers.add()
        option.header.CopyFrom(header)
        option.append.value = header.key[:1] != ":"
    sanitise(mutation, b"", part, omissions)
    del headers.headers[:]
    headers.headers.extend([option.header for option in mutation.set_headers])


class _Change:
    """One mutation of one message's headers."""

    def __init__(
        self,
        mutation: HeaderMutation,
        original: bytes,
        part: Part,
        omissions: Omissions,
        limit: int,
    ) -> None:
        self._mutation = mutation
        self._original = original
        self._part = part
        self._omissions = omissions
        self._limit = limit
        self._headers: dict[str, list[bytes]] | None = None
        self._changed = False

    def made(self) -> bool:
        """See `sanitise`."""
        mutation = self._mutation
        removed = [name for name in mutation.remove_headers if self._may_remove(name)]
        if len(removed) > MAX_HEADERS:
            known = self._known()
            removed = [name for name in dict.fromkeys(removed) if name.lower() in known]
        if len(removed) != len(mutation.remove_headers):
            self._changed = True
            del mutation.remove_headers[:]
            mutation.remove_headers.extend(removed)
        options = mutation.set_headers
        kept = [option for option in options if self._may_set(option)]
        size = sum(len(o.header.key) + len(o.header.raw_value) for o in kept)
        if len(kept) > MAX_HEADERS // _FEW or size > MAX_HEADER_BYTES // _FEW:
            kept = self._applied(removed, kept)
        if len(kept) != len(options):
            self._changed = True
            del options[:]
            options.extend(kept)
        return self._changed

    def _known(self) -> dict[str, list[bytes]]:
        """The values of the original headers, by name in lower case."""
        if self._headers is None:
            found: dict[str, list[bytes]] = {}
            self._headers = found
            if self._original:
                message = parse_request(self._original)
                kind = message.WhichOneof("request")
                if kind == "request_headers":
                    fields = message.request_headers.headers.headers
                elif kind == "response_headers":
                    fields = message.response_headers.headers.headers
                elif kind == "request_trailers":
                    fields = message.request_trailers.trailers.headers
                else:
                    fields = message.response_trailers.trailers.headers
                for field in fields:
                    value = field.raw_value or field.value.encode()
                    found.setdefault(field.key.lower(), []).append(value)
        return self._headers

    def _leave_out(self, what: LeftOut, name: str) -> bool:
        leave_out(self._omissions, what, name)
        return False

    def _may_remove(self, name: str) -> bool:
        lower = name.lower()
        if lower[:1] == ":":
            return self._leave_out(LeftOut.PSEUDO_HEADER, name)
        if not _NAME.fullmatch(name):
            return self._leave_out(LeftOut.HEADER_NAME, name)
        if lower in _KEPT and self._part is not Part.TRAILERS:
            if lower == "connection" or lower == "upgrade" or lower == "host":
                return self._leave_out(LeftOut.CONNECTION_HEADER, name)
            return False
        return True

    def _may_set(self, option: HeaderValueOption) -> bool:
        header = option.header
        key = header.key
        name = key.lower()
        value = header.raw_value
        if name == DESTINATION and self._part is Part.REQUEST:
            return True
        if name[:1] == ":" or name == "host":
            return self._may_set_pseudo(name, value, option)
        if not _NAME.fullmatch(key):
            return option.HasField("header") and self._leave_out(LeftOut.HEADER_NAME, key)
        if name in FRAMING:
            return False
        if name in CONNECTION and not (name == "te" and value == b"trailers"):
            if not self._says_again(name, value):
                self._leave_out(LeftOut.CONNECTION_HEADER, key)
            return False
        if _CONTROL.search(value):
            return self._leave_out(LeftOut.HEADER_VALUE, key)
        trimmed = value.strip(b" \t")
        # RFC 9113, 8.2.1 forbids spaces around a value: an h2c server resets the stream.
        if trimmed != value:
            header.raw_value = trimmed
            self._changed = True
        return True

    def _may_set_pseudo(self, name: str, value: bytes, option: HeaderValueOption) -> bool:
        if self._says_again(name, value):
            return False
        if self._part is Part.REQUEST and name in _REQUEST_PSEUDO and not option.append.value:
            if _REQUEST_PSEUDO[name].fullmatch(value):
                return True
            return self._leave_out(LeftOut.HEADER_VALUE, name)
        if self._part is Part.RESPONSE and name == ":status" and not option.append.value:
            return bool(_STATUS.fullmatch(value)) or self._leave_out(LeftOut.STATUS, repr(value))
        return self._leave_out(LeftOut.PSEUDO_HEADER, name)

    def _says_again(self, name: str, value: bytes) -> bool:
        return self._known().get(name) == [value]

    def _applied(
        self, removed: list[str], options: list[HeaderValueOption]
    ) -> list[HeaderValueOption]:
        """The options that change the headers. The others repeat what is there.

        Raises:
            PickerViolation: there would be more headers than Envoy accepts.
        """
        headers = dict(self._known())
        before = _measure(headers)
        for name in removed:
            headers.pop(name.lower(), None)
        kept: dict[str, list[HeaderValueOption]] = {}
        for option in options:
            name, value = option.header.key.lower(), option.header.raw_value
            if name == DESTINATION and self._part is Part.REQUEST:
                kept.setdefault(name, []).append(option)
                # It becomes one header with the judged pick, whatever the picker wrote.
                headers[name] = [b""]
            elif option.append.value:
                kept.setdefault(name, []).append(option)
                headers[name] = [*headers.get(name, ()), value]
            elif headers.get(name) != [value]:
                kept[name] = [option]
                headers[name] = [value]
        size, count = _measure(headers)
        # If the original is over a default limit, this Envoy has a higher limit.
        if self._part is not Part.IMMEDIATE and (
            size > max(self._limit, before[0]) or count > max(MAX_HEADERS, before[1])
        ):
            raise PickerViolation("more headers than Envoy accepts")
        return [option for same in kept.values() for option in same]


def _measure(headers: dict[str, list[bytes]]) -> tuple[int, int]:
    """Size in bytes and number of the headers, as Envoy counts them."""
    size = count = 0
    for name, values in headers.items():
        if name != "content-length":
            count += len(values)
            size += sum(len(name) + len(value) for value in values)
    return size, count
