"""gRPC's layer on HTTP/2: message framing, statuses, timeouts, status mappings. Pure.

It implements gRPC's document `PROTOCOL-HTTP2`. Nothing here knows frames, streams or sockets.
"""

from typing import Final
from urllib.parse import quote, unquote_to_bytes

from epp_client.wire.http2.frames import ErrorCode
from epp_client.wire.status import (
    CANCELLED,
    INTERNAL,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    UNKNOWN,
    Status,
)

MAX_MESSAGE: Final = 64 * 1024 * 1024
"""Bytes of one message. Envoy streams bodies in pieces of at most its buffer limit (1 MiB by default), but
a picker may answer a whole body in one piece. gRPC's usual 4 MiB would be too few for a prompt with
pictures."""

_HTTP_STATUSES: Final = {
    400: INTERNAL,
    401: UNAUTHENTICATED,
    403: PERMISSION_DENIED,
    404: UNIMPLEMENTED,
    429: UNAVAILABLE,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: UNAVAILABLE,
}
_RESETS: Final = {
    ErrorCode.REFUSED_STREAM: UNAVAILABLE,
    ErrorCode.CANCEL: CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: PERMISSION_DENIED,
}
# Made once: Envoy ends each ext_proc stream with a reset.
_OF_RESETS: Final = {
    int(code): Status(_RESETS.get(code, INTERNAL), f"the peer reset the stream: {code.name}")
    for code in ErrorCode
}
_OF_CANCELLED: Final = {
    code: Status(CANCELLED, status.message) for code, status in _OF_RESETS.items()
}
_TIMEOUT_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MESSAGE_SAFE: Final = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")


class GrpcFault(Exception):
    """The peer broke a rule of gRPC, so the stream ends with `status`."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class MessageReader:
    """Assembles messages from the payloads of DATA frames, however they are split."""

    __slots__ = ("_need", "_partial", "_prefix")

    def __init__(self) -> None:
        self._prefix = b""
        self._need = -1
        self._partial = bytearray()

    @property
    def idle(self) -> bool:
        """Whether it is between messages."""
        return self._need < 0 and not self._prefix

    @property
    def size(self) -> int:
        """Bytes of the unfinished message."""
        return len(self._partial)

    def feed(self, data: bytes, start: int, stop: int) -> list[bytes]:
        """The messages that `data[start:stop]` completes.

        Raises:
            GrpcFault: a compressed message, or one above `MAX_MESSAGE`.
        """
        messages = []
        partial = self._partial
        while start < stop:
            if self._need < 0:
                taken = min(5 - len(self._prefix), stop - start)
                self._prefix += data[start : start + taken]
                start += taken
                if len(self._prefix) < 5:
                    break
                self._need = _length(self._prefix)
                self._prefix = b""
            taken = min(self._need - len(partial), stop - start)
            if taken == self._need:
                messages.append(data[start : start + taken])
                self._need = -1
            else:
                partial += data[start : start + taken]
                if len(partial) == self._need:
                    messages.append(bytes(partial))
                    partial = self._partial = bytearray()
                    self._need = -1
            start += taken
        return messages


def _length(prefix: bytes) -> int:
    if prefix[0]:
        raise GrpcFault(Status(UNIMPLEMENTED, "compressed messages are not supported"))
    length = int.from_bytes(prefix[1:])
    if length > MAX_MESSAGE:
        raise GrpcFault(
            Status(
                RESOURCE_EXHAUSTED,
                f"a message of {length} bytes is above the limit of {MAX_MESSAGE}",
            )
        )
    return length


def encode_message(text: str) -> str:
    """`text` as a `grpc-message` header value: percent-encoded UTF-8."""
    return quote(text, safe=_MESSAGE_SAFE, errors="replace")


def decode_message(value: str) -> str:
    """The text of a `grpc-message` header value. Invalid encodings are kept as they are."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


def parse_timeout(value: str) -> float | None:
    """Seconds of a `grpc-timeout` header value; None if it is malformed."""
    digits, unit = value[:-1], value[-1:]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 8:
        return None
    scale = _TIMEOUT_UNITS.get(unit)
    return None if scale is None else int(digits) * scale


def is_grpc_content_type(value: str) -> bool:
    """Whether a content-type is `application/grpc`, with or without a `+suffix` or `;parameters`."""
    return value.startswith("application/grpc") and value[16:17] in ("", "+", ";")


def status_of_http(code: int) -> Status:
    """The gRPC status for an HTTP status without grpc-status."""
    return Status(_HTTP_STATUSES.get(code, UNKNOWN), f"the peer answered with HTTP status {code}")


def status_of_reset(code: int) -> Status:
    """The gRPC status for a RST_STREAM of the peer."""
    known = _OF_RESETS.get(code)
    if known is None:
        return Status(INTERNAL, f"the peer reset the stream with error code {code}")
    return known


def status_of_cancelled(code: int) -> Status:
    """The gRPC status of a call that its client has reset."""
    known = _OF_CANCELLED.get(code)
    return Status(CANCELLED, status_of_reset(code).message) if known is None else known
