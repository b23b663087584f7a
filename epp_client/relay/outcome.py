"""The possible outcomes of a request: values in metrics, logs and tests. Pure."""

from enum import StrEnum


class Outcome(StrEnum):
    """How an exchange ended, from the client's point of view."""

    STEERED = "steered"
    """Sent where the picker said."""
    FAILED_OPEN = "failed_open"
    """Sent to a local pick, because the picker gave no usable answer."""
    LOCAL_PICK = "local_pick"
    """Sent to a local pick, because the pool has no picker."""
    REFUSED = "refused"
    """Answered by the sidecar with an error."""
    REFUSED_BY_PICKER = "refused_by_picker"
    """Answered by the picker: a refusal is an answer."""
    LOCAL_REPLY = "local_reply"
    """Answered by Envoy itself, or by another of its filters, before there was a decision."""
    EVICTED = "evicted"
    """Steered, and later given up by the picker. The client gets the picker's answer, or a reset if the
    response had begun."""
    CANCELLED = "cancelled"
    """The client, or Envoy, closed the stream before there was a decision."""


class Eviction(StrEnum):
    """How a request ended that its picker gave up after steering it."""

    ANSWERED = "answered"
    """There was no response yet: the client got the picker's answer."""
    RESET = "reset"
    """The response had begun. It was reset, so that the model server stops."""
    FINISHED = "finished"
    """The response had begun. It continued to its end, as the pool's settings say."""
