"""Header blocks: HPACK encoding and decoding, the rules of RFC 9113 §8.2 and §8.3, and gRPC's fields.

Our blocks are literals without indexing, so encoding has no state. The peer is told to use no dynamic
table; once it complies, equal blocks have equal meaning, and each is decoded once. Nothing here decides
about streams.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar

from hpack import Decoder, HPACKError

from epp_client.wire.http2.frames import ConnectionFault, ErrorCode
from epp_client.wire.http2.grpc import (
    decode_message,
    encode_message,
    is_grpc_content_type,
    status_of_http,
)
from epp_client.wire.status import OK, UNKNOWN, Status

MAX_HEADER_LIST: Final = 64 * 1024
"""Limit of a header list in bytes by RFC 9113 §6.5.2, and of a compressed block."""
_CACHED_BLOCKS: Final = 1024
_CACHED_BLOCK_SIZE: Final = 2048
_CACHED_FIELDS: Final = 4096
_DEFAULT_TABLE: Final = 4096

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE: Final = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]$")
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_RESPONSE_PSEUDO: Final = frozenset((b":status",))


class Malformed(Exception):
    """A header list breaks RFC 9113 §8, which is a fault of the stream."""


class RequestHead(NamedTuple):
    """The header list of a request."""

    path: str
    metadata: Mapping[str, str]
    """All fields except pseudo-headers. Repeated fields are joined with commas."""
    grpc: bool
    content_length: int


class ResponseHead(NamedTuple):
    """The header list of a response, or of its trailers."""

    http_status: int
    """0 for trailers."""
    grpc: bool
    content_length: int
    status: Status | None
    """From grpc-status and grpc-message; None if missing."""

    @property
    def verdict(self) -> Status:
        """The status of a stream that ends with this list."""
        if self.status is not None:
            return self.status
        if self.http_status not in (0, 200):
            return status_of_http(self.http_status)
        return Status(UNKNOWN, "the stream ended without a grpc-status")


Fields = list[tuple[bytes, bytes]]
T = TypeVar("T")


class _Last(Generic[T]):
    """A block, and what it means."""

    __slots__ = ("block", "head")

    def __init__(self, block: bytes, head: T) -> None:
        self.block = block
        self.head = head


class HeaderReader:
    """Decodes the blocks of one peer, which all have to pass through it in order.

    All methods raise `ConnectionFault` (COMPRESSION_ERROR) for invalid HPACK, and `Malformed` for lists
    that break the rules.
    """

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_HEADER_LIST)
        self._decoder.max_allowed_table_size = _DEFAULT_TABLE
        self._forbidden = False
        self._stateless = False
        self._fields: dict[bytes, tuple[bytes, bytes]] = {}
        self._requests: dict[bytes, RequestHead] = {}
        self._responses: dict[bytes, ResponseHead] = {}
        # The last ones: usually the next are equal, and to compare two blocks takes a third of the time of
        # hashing one.
        self._request: _Last[RequestHead] | None = None
        self._response: _Last[ResponseHead] | None = None
        self._trailers: _Last[ResponseHead] | None = None

    def table_forbidden(self) -> None:
        """The peer has acknowledged our HEADER_TABLE_SIZE of 0.

        RFC 9113 §4.3.1 allows refusing peers that still use a table. Some do (h2spec is one). Their blocks
        are decoded, with a table of at most the default size, and are not cached.
        """
        self._forbidden = True

    def request(self, block: bytes) -> RequestHead:
        """Read the header list of a request."""
        last = self._request
        if last is not None and last.block == block:
            return last.head
        head = self._requests.get(block)
        if head is None:
            head = _request(self.fields(block))
            if not self._keep(self._requests, block, head):
                return head
        self._request = _Last(block, head)
        return head

    def response(self, block: bytes) -> ResponseHead:
        """Read the header list of a response, or its trailers."""
        last = self._response
        if last is not None and last.block == block:
            return last.head
        last = self._trailers
        if last is not None and last.block == block:
            return last.head
        head = self._responses.get(block)
        if head is None:
            head = _response(self.fields(block))
            if not self._keep(self._responses, block, head):
                return head
        if head.http_status:
            self._response = _Last(block, head)
        else:
            self._trailers = _Last(block, head)
        return head

    def fields(self, block: bytes) -> Fields:
        """Decode a block without checking the rules."""
        try:
            if self._stateless:
                return self._stateless_fields(block)
            fields = self._decode(block)
        except (HPACKError, IndexError) as error:
            # hpack's messages quote the block, which may contain a credential.
            text = f"not HPACK ({type(error).__name__})"
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, text) from error
        # Before its ACK the peer may enlarge its table again, so only the ACK makes an empty one final.
        if self._forbidden and not self._stateless and self._decoder.header_table_size == 0:
            self._stateless = True
            self._decoder.max_allowed_table_size = 0
        return fields

    def _decode(self, block: bytes) -> Fields:
        return [
            (bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)
        ]

    def _stateless_fields(self, block: bytes) -> Fields:
        """Decode a block without dynamic table, field by field from a cache: most fields repeat, even if
        one, such as a trace id, is new each time."""
        known = self._fields
        fields: Fields = []
        position = size = 0
        while position < len(block):
            stop = _field_end(block, position)
            piece = block[position:stop]
            position = stop
            field = known.get(piece)
            if field is None:
                decoded = self._decode(piece)
                # An empty result is a table size update.
                if not decoded:
                    if fields:
                        raise HPACKError("a table size update after a field")
                    continue
                field = decoded[0]
                if len(known) >= _CACHED_FIELDS:
                    known.clear()
                if stop <= len(block) and len(piece) <= _CACHED_BLOCK_SIZE:
                    known[piece] = field
            fields.append(field)
            size += len(field[0]) + len(field[1]) + 32
            if size > MAX_HEADER_LIST:
                raise HPACKError("a header list above 64 KiB")
        return fields

    def _keep(self, cache: dict[bytes, T], block: bytes, head: T) -> bool:
        """Keep what a block means, if an equal block will mean the same."""
        if not self._stateless or len(block) > _CACHED_BLOCK_SIZE:
            return False
        if len(cache) >= _CACHED_BLOCKS:
            cache.clear()
        cache[block] = head
        return True


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """The integer at `position` (RFC 7541 §5.1) with the prefix `mask`, and where it ends."""
    value = block[position] & mask
    position += 1
    if value == mask:
        shift = 0
        while shift < 28:
            byte = block[position]
            position += 1
            value += (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value, position
        raise HPACKError("an integer without end")
    return value, position


def _field_end(block: bytes, position: int) -> int:
    """Where the field at `position` ends (RFC 7541 §6); beyond the end of a cut block."""
    first = block[position]
    if first & 0x80:
        return _integer(block, position, 0x7F)[1]
    if first & 0xE0 == 0x20:
        return _integer(block, position, 0x1F)[1]
    index, position = _integer(block, position, 0x3F if first & 0x40 else 0x0F)
    if not index:
        length, position = _integer(block, position, 0x7F)
        position += length
    length, position = _integer(block, position, 0x7F)
    return position + length


def _split(
    fields: Fields, allowed: frozenset[bytes]
) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Pseudo-headers and regular fields, after the checks common to all header lists."""
    pseudo: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] == b":":
            if regular or name in pseudo or name not in allowed:
                raise Malformed(f"pseudo-header {name!r} out of place")
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            raise Malformed(f"field {name!r} has forbidden characters")
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
            raise Malformed(f"field {name!r} belongs to HTTP/1.1")
        regular[name] = regular[name] + b"," + value if name in regular else value
    return pseudo, regular


def check_trailers(fields: Fields) -> None:
    """Check the trailers of a request, which have no meaning in gRPC.

    Raises:
        Malformed: there are pseudo-headers, or forbidden fields.
    """
    _split(fields, frozenset())


def _content_length(regular: Mapping[bytes, bytes]) -> int:
    value = regular.get(b"content-length")
    if value is None:
        return -1
    if not value.isdigit() or len(value) > 18:
        raise Malformed("content-length is not a number")
    return int(value)


def _request(fields: Fields) -> RequestHead:
    pseudo, regular = _split(fields, _REQUEST_PSEUDO)
    if not (pseudo.get(b":method") and pseudo.get(b":scheme") and pseudo.get(b":path")):
        raise Malformed("a request without method, scheme or path")
    metadata = {n.decode("latin-1"): v.decode("latin-1") for n, v in regular.items()}
    return RequestHead(
        pseudo[b":path"].decode("latin-1"),
        MappingProxyType(metadata),
        pseudo[b":method"] == b"POST" and is_grpc_content_type(metadata.get("content-type", "")),
        _content_length(regular),
    )


def _response(fields: Fields) -> ResponseHead:
    pseudo, regular = _split(fields, _RESPONSE_PSEUDO)
    code = pseudo.get(b":status", b"0")
    if not code.isdigit() or len(code) > 3:
        raise Malformed(":status is not a number")
    status = None
    if (number := regular.get(b"grpc-status")) is not None:
        known = number.isdigit() and len(number) < 4
        text = decode_message(regular.get(b"grpc-message", b"").decode("latin-1"))
        status = Status(int(number) if known else UNKNOWN, text, said=True)
    return ResponseHead(
        int(code),
        is_grpc_content_type(regular.get(b"content-type", b"").decode("latin-1")),
        _content_length(regular),
        status,
    )


def _string(text: bytes) -> bytes:
    """A string literal without Huffman coding (RFC 7541 §5.2)."""
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    prefix = bytearray((127,))
    length -= 127
    while length > 127:
        prefix.append(length & 127 | 128)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + text


def literals(fields: Iterable[tuple[str, str]]) -> bytes:
    """Fields as literals without indexing (RFC 7541 §6.2.2)."""
    return b"".join(
        b"\x00" + _string(name.encode("latin-1")) + _string(value.encode("latin-1"))
        for name, value in fields
    )


_STATUS_200: Final = b"\x88"
_POST: Final = b"\x83"
_SCHEMES: Final = {"http": b"\x86", "https": b"\x87"}
_PATH: Final = b"\x04"
_AUTHORITY: Final = b"\x01"
_GRPC: Final = literals([("content-type", "application/grpc")])

NO_TABLE: Final = b"\x20"
"""Precedes the first block of a connection: a table size update to 0 (RFC 7541 §4.2, §6.3)."""
RESPONSE: Final = _STATUS_200 + _GRPC
"""The response headers of every gRPC stream."""
TRAILERS_OK: Final = literals([("grpc-status", "0")])
NOT_GRPC: Final = literals([(":status", "415"), ("content-type", "text/plain")])
"""The answer to a request that is not gRPC."""


def trailers(status: Status) -> bytes:
    """The trailers with `status`."""
    if status == OK:
        return TRAILERS_OK
    fields = [("grpc-status", str(status.code))]
    if status.message:
        fields.append(("grpc-message", encode_message(status.message)))
    return literals(fields)


def request_start(scheme: str, authority: str, path: str) -> bytes:
    """The part of a request's block that is equal for all calls of a method."""
    return b"".join(
        (
            _POST,
            _SCHEMES[scheme],
            _PATH + _string(path.encode("latin-1")),
            _AUTHORITY + _string(authority.encode("latin-1")),
            literals([("te", "trailers")]),
            _GRPC,
            literals([("user-agent", "epp-client")]),
        )
    )
