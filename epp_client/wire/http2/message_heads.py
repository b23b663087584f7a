"""Heads of DATA frames that are one gRPC message each. Pure."""

from struct import Struct
from typing import Final

from epp_client.wire.http2.frames import END_HEADERS, HEADERS
from epp_client.wire.http2.headers import RESPONSE

PREFIX: Final = Struct(">BI")
"""Before each message: not compressed, and its size."""
PREFIX_SIZE: Final = 5
WORD: Final = Struct(">I")
"""The id of a stream."""
MESSAGE_HEAD: Final = Struct(">IBIBI")
"""The head of a DATA frame and the prefix of the message that fills it."""
_FIRST_HEAD: Final = Struct(f">IBI{len(RESPONSE)}sIBIBI")
_HEADERS_WORD: Final = len(RESPONSE) << 8 | HEADERS
PREPARED: Final = 2048
"""Size of a frame from which on its head is packed. Of smaller ones, which most are, the parts around the
stream's id are prepared: compiled code packs a Struct for the cost of some ten look-ups in a list."""
STARTS: Final[list[bytes]] = [Struct(">IB").pack(size << 8, 0) for size in range(PREPARED)]
"""By the size of the frame: the head up to the id."""
PREFIXES: Final[list[bytes]] = [
    PREFIX.pack(0, max(0, size - PREFIX_SIZE)) for size in range(PREPARED)
]
"""By the size of the frame: what follows the id."""


def first_head(stream_id: int, size: int) -> bytes:
    """The head of a DATA frame of `size` bytes with one message, and the response headers before it."""
    return _FIRST_HEAD.pack(
        _HEADERS_WORD,
        END_HEADERS,
        stream_id,
        RESPONSE,
        size << 8,
        0,
        stream_id,
        0,
        size - PREFIX_SIZE,
    )
