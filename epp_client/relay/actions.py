"""What an Exchange wants done. The session carries these out in order; nothing here does anything.

Plain classes: a request makes some twenty of them, and a NamedTuple or a dataclass takes twice as long
to make, compiled even more.
"""

from enum import IntEnum
from typing import ClassVar, final

from mypy_extensions import mypyc_attr


class Timer(IntEnum):
    """The deadlines of an exchange; each runs at most once at a time."""

    PICK = 0
    """From the end of the request to the pick; while it is being sent, how long nothing moves."""
    ENDPOINT = 1
    """Until the table, or Envoy, has caught up with the picker."""
    RESPONSE = 2
    """How long nothing of the response moves while the picker owes an answer to it."""
    TRAILERS = 3
    """The answer to trailers, once everything before them is answered."""


@final
@mypyc_attr(acyclic=True)
class ToEnvoy:
    """Send one ProcessingResponse to Envoy."""

    __slots__ = ("message",)
    __match_args__: ClassVar = ("message",)

    def __init__(self, message: bytes) -> None:
        self.message = message


@final
@mypyc_attr(acyclic=True)
class ToPicker:
    """Send one ProcessingRequest to the picker, once its stream is open."""

    __slots__ = ("message",)
    __match_args__: ClassVar = ("message",)

    def __init__(self, message: bytes) -> None:
        self.message = message


@final
@mypyc_attr(acyclic=True)
class OpenPicker:
    """Open a stream to the pool's picker."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True)
class FinishPicker:
    """Half-close the picker's stream; what it still says is of no interest."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True)
class CancelPicker:
    """Reset the picker's stream."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True)
class FinishEnvoy:
    """End Envoy's stream with OK. Only after an answer that ends the request."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True)
class FailEnvoy:
    """End Envoy's stream with an error, for which Envoy resets the client's: what has begun cannot be
    brought to its true end, and must not look as if it had been."""

    __slots__ = ()


@final
@mypyc_attr(acyclic=True)
class Arm:
    """Start `timer`, or start it anew, to ring in `seconds`."""

    __slots__ = ("seconds", "timer")
    __match_args__: ClassVar = ("timer", "seconds")

    def __init__(self, timer: Timer, seconds: float) -> None:
        self.timer = timer
        self.seconds = seconds


@final
@mypyc_attr(acyclic=True)
class Disarm:
    """Stop `timer`; a timer that does not run is no mistake."""

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
@mypyc_attr(acyclic=True)
class Outbox:
    """Actions that nobody has taken yet, in order."""

    __slots__ = ("_actions",)

    def __init__(self) -> None:
        self._actions: list[Action] = []

    def add(self, action: Action) -> None:
        """Have `action` done after all others."""
        self._actions.append(action)

    def send(self, message: bytes) -> None:
        """Have a ProcessingResponse sent to Envoy after all others."""
        self._actions.append(ToEnvoy(message))

    def take(self) -> list[Action]:
        """All actions; none is left."""
        actions, self._actions = self._actions, []
        return actions
