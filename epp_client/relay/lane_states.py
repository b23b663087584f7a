"""The states of a lane: what Envoy has sent, what it was answered, and by whom. Pure."""

from enum import IntEnum


class Received(IntEnum):
    """What Envoy has sent of a direction."""

    NOTHING = 0
    OPEN = 1
    """Headers, and more will follow."""
    ENDED_BY_HEADERS = 2
    ENDED_BY_BODY = 3
    ENDED_BY_TRAILERS = 4


class Answered(IntEnum):
    """Which answers of a direction were sent to Envoy."""

    NOTHING = 0
    HEADERS = 1
    ALL = 2
    """Envoy needs no more answers."""


class Source(IntEnum):
    """Where the answers come from."""

    PICKER = 0
    PICKER_ENDED = 1
    """The picker has ended its body. The rest of the original is dropped."""
    ORIGINAL = 2
    """Taken over: every message is answered unchanged when it arrives."""
    ORIGINAL_DROPPED = 3
    """Taken over after the picker had ended its body: only the end has to be sent."""


class Whole(IntEnum):
    """Whether the picker has answered the direction as a whole (CONTINUE_AND_REPLACE)."""

    NO = 0
    KEPT = 1
    """The original is sent after the header answer is released."""
    YES = 2
