"""The phases of an exchange, and its events other than messages. Pure."""

from enum import IntEnum
from typing import Final


class ExchangePhase(IntEnum):
    """The phase of an exchange."""

    NEW = 0
    """Envoy has sent nothing."""
    PICKING = 1
    """The picker was asked. Its answer is held back until the pick is judged and the answer is complete."""
    WAITING_FOR_ENDPOINT = 2
    """The pick names an endpoint that the table or Envoy does not have yet."""
    WAITING_WITHOUT_PICKER = 3
    """The same, after the picker has ended its stream."""
    WAITING_FOR_END = 4
    """A local pick waits for the end of the request: only then does Envoy know whether it may retry."""
    RELAYING = 5
    """The request is steered. The picker gets the rest of it, and the response."""
    PASSING = 6
    """Decided, and without a picker: every message from Envoy is answered unchanged."""
    ANSWERING = 7
    """The picker answers the client, message by message (StreamedImmediateResponse)."""
    CLOSED = 8
    """Over."""


class Signal(IntEnum):
    """The events of an exchange other than messages."""

    PICKER_ENDED = 0
    """The picker ended its stream with OK."""
    PICKER_FAILED = 1
    """The picker ended its stream with an error, or cannot be reached."""
    PICKER_DIED = 2
    """The stream was cut off. Another stream may succeed."""
    PICKER_STALLED = 3
    """The backlog to the picker is full, or has room again."""
    PICKER_SILENT = 4
    """The picker does not answer anything, health checks included, or there is no time to wait for it."""
    PICK_RANG = 5
    """The deadline of the pick has passed."""
    ENDPOINT_RANG = 6
    """The wait for the picked endpoint is over."""
    RESPONSE_RANG = 7
    """The response has made no progress for a quarter of its deadline."""
    TRAILERS_RANG = 8
    """The picker has not answered trailers in time."""
    END_RANG = 9
    """The wait for the end of the request is over."""
    POOL_CHANGED = 10
    """The pool has a newer snapshot."""
    ENVOY_CLOSED = 11
    """Envoy has half-closed or reset its stream."""


UNDECIDED: Final = tuple(phase <= ExchangePhase.WAITING_FOR_END for phase in ExchangePhase)
"""By phase: whether a newer snapshot of the pool can change the decision."""
