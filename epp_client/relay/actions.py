"""The actions that an Exchange returns. The session carries them out in order; this module does nothing.

They are plain classes because a request creates about twenty of them. To create a NamedTuple or a dataclass
takes twice as long, and longer still in compiled code.
"""

from enum import IntEnum
from typing import ClassVar, final

from mypy_extensions import mypyc_attr


class Timer(IntEnum):
    """The deadlines of an exchange; each runs at most once at a time."""

    PICK = 0
    """From the end of the request to the pick. While the request is being sent: the time without
    progress."""
    ENDPOINT = 1
    """The wait until the table and Envoy know the picked endpoint."""
    RESPONSE = 2
    """The time without progress of the response while the picker owes an answer to it."""
    TRAILERS = 3
    """The wait for the answer to trailers, after everything before them is answered."""
    END = 4
    """The wait for the end of a request that is decided and could be released."""


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class ToEnvoy:
    """Send one ProcessingResponse to Envoy."""

    __slots__ = ("message",)
    __match_args__: ClassVar = ("message",)

    def __init__(self, message: bytes) -> None:
        self.message = message


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class ToPicker:
    """Send one ProcessingRequest to the picker, once its stream is open."""

    __slots__ = ("message",)
    __match_args__: ClassVar = ("message",)

    def __init__(self, message: bytes) -> None:
        self.message = message


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class OpenPicker:
    """Open a stream to the pool's picker."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class FinishPicker:
    """Half-close the picker's stream, and ignore what the picker still sends."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class CancelPicker:
    """Reset the picker's stream."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class FinishEnvoy:
    """End Envoy's stream with OK. Only after an answer that ends the request."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class FailEnvoy:
    """End Envoy's stream with an error, so that Envoy resets the client's stream. For a message that has
    begun and cannot be completed: the client must not take it for complete."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Arm:
    """Start or restart `timer`, to ring in `seconds`."""

    __slots__ = ("seconds", "timer")
    __match_args__: ClassVar = ("timer", "seconds")

    def __init__(self, timer: Timer, seconds: float) -> None:
        self.timer = timer
        self.seconds = seconds


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Disarm:
    """Stop `timer`. It may be stopped already."""

    __slots__ = ("timer",)
    __match_args__: ClassVar = ("timer",)

    def __init__(self, timer: Timer) -> None:
        self.timer = timer


Action = (
    ToEnvoy
    | ToPicker
    | OpenPicker
    | FinishPicker
    | CancelPicker
    | FinishEnvoy
    | FailEnvoy
    | Arm
    | Disarm
)


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Outbox:
    """Actions that were not taken yet, in order."""

    __slots__ = ("_actions",)

    def __init__(self) -> None:
        self._actions: list[Action] = []

    def add(self, action: Action) -> None:
        """Append `action`."""
        self._actions.append(action)

    def send(self, message: bytes) -> None:
        """Append a ProcessingResponse to Envoy."""
        self._actions.append(ToEnvoy(message))

    def take(self) -> list[Action]:
        """Remove and return all actions."""
        actions, self._actions = self._actions, []
        return actions
