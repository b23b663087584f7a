"""What can become of a request: the values that metrics, logs and tests speak of. Pure."""

from enum import StrEnum


class Outcome(StrEnum):
    """How an exchange ended, from the client's point of view."""

    STEERED = "steered"
    """Sent where the picker said."""
    FAILED_OPEN = "failed_open"
    """Sent to an endpoint of our own choice, because the picker gave no usable answer."""
    LOCAL_PICK = "local_pick"
    """Sent to an endpoint of our own choice, because the pool has no picker."""
    REFUSED = "refused"
    """Answered by us with an error."""
    REFUSED_BY_PICKER = "refused_by_picker"
    """Answered by the picker: a refusal is an answer."""
    LOCAL_REPLY = "local_reply"
    """Answered by Envoy itself, or by another of its filters, before there was a decision."""
    EVICTED = "evicted"
    """Steered, and then given up by the picker: answered by it before the response, else reset."""
    CANCELLED = "cancelled"
    """The client, or Envoy, closed the stream before there was a decision."""


class Eviction(StrEnum):
    """What became of a request that its picker gave up after it had steered it."""

    ANSWERED = "answered"
    """There was no response yet: the client got the picker's answer."""
    RESET = "reset"
    """The response had begun, and was reset, so that the model server stops."""
    FINISHED = "finished"
    """The response had begun, and went on to its end, as the pool asks for."""
