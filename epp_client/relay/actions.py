"""What an Exchange wants done. The session carries these out in order; nothing here does anything."""

from enum import Enum
from typing import NamedTuple


class ToEnvoy(NamedTuple):
    """Send one ProcessingResponse to Envoy."""

    message: bytes


class ToPicker(NamedTuple):
    """Send one ProcessingRequest to the picker, once its stream is open."""

    message: bytes


class OpenPicker(NamedTuple):
    """Open a stream to the pool's picker."""


class FinishPicker(NamedTuple):
    """Half-close the picker's stream; what it still says is of no interest."""


class CancelPicker(NamedTuple):
    """Reset the picker's stream."""


class FinishEnvoy(NamedTuple):
    """End Envoy's stream with OK. Only after an answer that ends the request."""


class Timer(Enum):
    """The deadlines of an exchange; each runs at most once at a time."""

    PICK = "pick"
    """From the end of the request to the pick."""
    ENDPOINT = "endpoint"
    """Until the table, or Envoy, has caught up with the picker."""
    RESPONSE = "response"
    """The oldest answer that the picker owes after the pick."""


class Arm(NamedTuple):
    """Start `timer`, or start it anew, to ring in `seconds`."""

    timer: Timer
    seconds: float


class Disarm(NamedTuple):
    """Stop `timer`; a timer that does not run is no mistake."""

    timer: Timer


Action = ToEnvoy | ToPicker | OpenPicker | FinishPicker | CancelPicker | FinishEnvoy | Arm | Disarm
