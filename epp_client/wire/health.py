"""grpc.health.v1: answers Check calls on the sidecar's socket, and encodes the Check calls to pickers.

Pure. Watch is answered with UNIMPLEMENTED, which the health protocol allows.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final

from epp_client.wire.status import NOT_FOUND, OK, UNIMPLEMENTED, Status
from epp_client.wire.transport import NO_OWNER, Accept, NoOwner, Stream, StreamEvents

SERVICE: Final = "/grpc.health.v1.Health/"
CHECK: Final = SERVICE + "Check"
EXT_PROC, READINESS, OVERALL = "envoy.service.ext_proc.v3.ExternalProcessor", "readiness", ""
"""Service names of a picker's health checks, the most specific one first."""
NAMES = frozenset(name.encode() for name in (OVERALL, "liveness", READINESS, EXT_PROC))
"""Service names that Envoy and Kubernetes ask for. All have the same answer."""

_SERVING = b"\x08\x01"
_NOT_SERVING = b"\x08\x02"


def with_health(accept: Accept, serving: Callable[[], bool]) -> Accept:
    """`accept`, preceded by the health service."""

    def accept_or_answer(stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        if not path.startswith(SERVICE):
            return accept(stream, path, metadata)
        if path != CHECK:
            stream.finish(Status(UNIMPLEMENTED, f"{path} is not implemented; use {CHECK}"))
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
    """`HealthCheckRequest.service`, of up to 127 bytes; None for any other message."""
    if not message:
        return b""
    if message[0] != 0x0A or len(message) < 2 or message[1] != len(message) - 2:
        return None
    return message[2:]


def check_request(service: str) -> bytes:
    """A HealthCheckRequest for `service`, a name of up to 127 bytes."""
    name = service.encode()
    return bytes((0x0A, len(name))) + name if name else b""


class ServingStatus(IntEnum):
    """HealthCheckResponse.ServingStatus."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def read_answer(message: bytes) -> ServingStatus:
    """`HealthCheckResponse.status`; UNKNOWN for any other message."""
    if len(message) == 2 and message[0] == 0x08 and message[1] in _STATUSES:
        return ServingStatus(message[1])
    return ServingStatus.UNKNOWN


_STATUSES = frozenset(map(int, ServingStatus))
