"""gRPC statuses. Pure."""

from typing import Final, NamedTuple

CANCELLED: Final = 1
UNKNOWN: Final = 2
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16


class Status(NamedTuple):
    """The gRPC status at the end of a stream."""

    code: int
    message: str = ""
    said: bool = False
    """Whether the peer sent it in trailers, rather than the transport making it up for a reset or a lost
    connection. Ignored by comparisons."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and self[:2] == other[:2]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:2])


OK: Final = Status(0)
