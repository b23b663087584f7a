"""Encodes and decodes HTTP/2 frames (RFC 9113 §4, §6, §7), and defines the faults of peers.

Nothing here knows streams, windows or sockets.
"""

from enum import IntEnum
from struct import Struct
from typing import Final

from librt.strings import BytesWriter, read_i32_be, write_i32_be
from mypy_extensions import i32, i64, u8

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384
LARGEST_FRAME: Final = (1 << 24) - 1
LARGEST_WINDOW: Final = (1 << 31) - 1
LARGEST_ID: Final = (1 << 31) - 1

HEAD: Final = Struct(">IBI")
"""Length << 8 | type, flags, stream id: the nine bytes before every payload."""
HEAD_SIZE: Final = 9
_SETTING: Final = Struct(">HI")
_LONGEST_DEBUG: Final = 256
_UNSIGNED: Final = 0xFFFF_FFFF
_WORD: Final = Struct(">I")


class ErrorCode(IntEnum):
    """Error codes of RFC 9113 §7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ConnectionFault(Exception):
    """The peer broke a rule, which ends the connection (RFC 9113 §5.4.1)."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class StreamFault(Exception):
    """The peer broke a rule, which ends one stream (RFC 9113 §5.4.2)."""

    def __init__(self, stream_id: int, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.stream_id = stream_id
        self.code = code


def write_head(out: BytesWriter, size_and_kind: i64, flags: u8, stream_id: i64) -> None:
    """Write the nine bytes before a payload. `size_and_kind`: the payload's length << 8 | type."""
    write_i32_be(out, i32(size_and_kind))
    out.append(flags)
    write_i32_be(out, i32(stream_id))


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A complete frame."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values.items()))


def read_settings(payload: bytes) -> dict[int, int]:
    """The checked settings of a SETTINGS frame. The last value of a name counts, so that a frame with many
    values of one setting has no further cost.

    Raises:
        ConnectionFault: a value breaks RFC 9113 §6.5.2.
    """
    if len(payload) % 6:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS not a multiple of 6 bytes")
    pairs = list(_SETTING.iter_unpack(payload))
    for name, value in pairs:
        if name == ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if name == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE too large")
        if name == MAX_FRAME_SIZE and not DEFAULT_FRAME <= value <= LARGEST_FRAME:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of bounds")
    return dict(pairs)


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def goaway(last_id: int, code: ErrorCode, text: str = "") -> bytes:
    """A GOAWAY frame. `text` is debug data for the peer's log, cut to 256 bytes."""
    debug = text.encode()[:_LONGEST_DEBUG]
    return frame(GOAWAY, 0, 0, _WORD.pack(last_id) + _WORD.pack(code) + debug)


def word(payload: bytes, offset: i64 = 0) -> i64:
    """The 32-bit number at `offset`."""
    return i64(read_i32_be(payload, offset)) & _UNSIGNED


def unpad(kind: int, flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding.

    Raises:
        ConnectionFault: the padding is longer than the payload (RFC 9113 §6.1).
    """
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without a pad length")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"more padding than frame (type {kind})")
    return payload[1 : len(payload) - padding]
