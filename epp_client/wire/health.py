"""grpc.health.v1 on the sidecar's own socket: answers Check, whoever else owns the other methods.

Pure: whether the sidecar serves is asked of a callable. Watch is not offered; it answers UNIMPLEMENTED,
which the health protocol allows.
"""

from collections.abc import Callable, Mapping

from epp_client.wire.grpc import NOT_FOUND, UNIMPLEMENTED
from epp_client.wire.stream import NO_OWNER, NoOwner
from epp_client.wire.transport import OK, Accept, Status, Stream, StreamEvents

SERVICE = "/grpc.health.v1.Health/"
CHECK = SERVICE + "Check"
NAMES = frozenset((b"", b"liveness", b"readiness", b"envoy.service.ext_proc.v3.ExternalProcessor"))
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
