"""The phases of an exchange, and what happens to it beside messages. Pure."""

from enum import IntEnum
from typing import Final


class ExchangePhase(IntEnum):
    """Where an exchange stands."""

    NEW = 0
    """Envoy has sent nothing."""
    PICKING = 1
    """The picker was asked. Its answer is held back until the pick is judged and the answer is whole."""
    WAITING_FOR_ENDPOINT = 2
    """The pick names an endpoint that the table, or Envoy, does not know yet."""
    WAITING_WITHOUT_PICKER = 3
    """The same, after the picker has ended its stream."""
    RELAYING = 4
    """The request is steered, and the picker is told of the rest of it and of the response."""
    PASSING = 5
    """Decided, and without a picker: every message of Envoy's is answered unchanged."""
    ANSWERING = 6
    """The picker answers the client, message by message (StreamedImmediateResponse)."""
    CLOSED = 7
    """Over."""


class Signal(IntEnum):
    """What happens to an exchange beside messages."""

    PICKER_ENDED = 0
    """The picker ended its stream with OK."""
    PICKER_FAILED = 1
    """The picker ended its stream with an error, or cannot be reached."""
    PICKER_DIED = 2
    """The stream was cut off: another one may fare better."""
    PICKER_STALLED = 3
    """The picker takes no messages for now, or takes messages again."""
    PICKER_SILENT = 4
    """The picker answers nothing for now, health checks included, or there is no time left for it."""
    PICK_RANG = 5
    """The deadline of the pick has passed."""
    ENDPOINT_RANG = 6
    """The wait for the picked endpoint is over."""
    RESPONSE_RANG = 7
    """Nothing of the response has moved for a quarter of its deadline."""
    TRAILERS_RANG = 8
    """The picker has left trailers unanswered."""
    POOL_CHANGED = 9
    """The pool has a newer snapshot."""
    ENVOY_CLOSED = 10
    """Envoy has half-closed or reset its stream."""


UNDECIDED: Final = tuple(phase <= ExchangePhase.WAITING_WITHOUT_PICKER for phase in ExchangePhase)
"""By phase: whether a newer snapshot of the pool may still matter."""
