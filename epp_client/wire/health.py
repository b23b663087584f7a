"""grpc.health.v1: answers Check on the sidecar's own socket, whoever else owns the other methods, and
words the Check that pickers are asked.

Pure: whether the sidecar serves is asked of a callable. Watch is not offered; it answers UNIMPLEMENTED,
which the health protocol allows.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final

from epp_client.wire.status import NOT_FOUND, OK, UNIMPLEMENTED, Status
from epp_client.wire.transport import NO_OWNER, Accept, NoOwner, Stream, StreamEvents

SERVICE: Final = "/grpc.health.v1.Health/"
CHECK: Final = SERVICE + "Check"
EXT_PROC, READINESS, OVERALL = "envoy.service.ext_proc.v3.ExternalProcessor", "readiness", ""
"""The services that say whether requests are welcome, the most telling one first."""
NAMES = frozenset(name.encode() for name in (OVERALL, "liveness", READINESS, EXT_PROC))
"""The services that Envoy and Kubernetes ask about; they are one process and share one answer."""

_SERVING = b"\x08\x01"
_NOT_SERVING = b"\x08\x02"


def with_health(accept: Accept, serving: Callable[[], bool]) -> Accept:
    """`accept`, with the health service answered before it is asked."""

    def accept_or_answer(stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        if not path.startswith(SERVICE):
            return accept(stream, path, metadata)
        if path != CHECK:
            stream.finish(Status(UNIMPLEMENTED, f"{path} is not offered; {CHECK} is"))
            return NO_OWNER
        return _Check(stream, serving)

    return accept_or_answer


class _Check(NoOwner):
    """Owner of one Check call."""

    __slots__ = ("_serving", "_stream")

    def __init__(self, stream: Stream, serving: Callable[[], bool]) -> None:
        self._stream = stream
        self._serving = serving

    def message_received(self, message: bytes) -> None:
        name = _service(message)
        if name not in NAMES:
            self._stream.finish(Status(NOT_FOUND, "unknown service"))
            return
        self._stream.send(_SERVING if self._serving() else _NOT_SERVING)
        self._stream.finish(OK)

    def half_closed(self) -> None:
        self._stream.finish(Status(UNIMPLEMENTED, "Check takes one message"))


def _service(message: bytes) -> bytes | None:
    """`HealthCheckRequest.service`; None for a message that is not one. Names are short."""
    if not message:
        return b""
    if message[0] != 0x0A or len(message) < 2 or message[1] != len(message) - 2:
        return None
    return message[2:]


def question(service: str) -> bytes:
    """A HealthCheckRequest about `service`, whose name is short."""
    name = service.encode()
    return bytes((0x0A, len(name))) + name if name else b""


class Said(IntEnum):
    """HealthCheckResponse.ServingStatus."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def read_answer(message: bytes) -> Said:
    """`HealthCheckResponse.status`; UNKNOWN for a message that is not one."""
    if len(message) == 2 and message[0] == 0x08 and message[1] in _SAID:
        return Said(message[1])
    return Said.UNKNOWN


_SAID = frozenset(map(int, Said))
