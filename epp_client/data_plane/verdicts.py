"""Verdicts: what the end of a stream, or a decision, says about the health of the asked picker address."""

from typing import Final

from epp_client.errors import PICK_REASONS, Reason
from epp_client.picker.address import PickerAddress, Waiting
from epp_client.relay.exchange import Exchange
from epp_client.relay.outcome import Outcome
from epp_client.wire.status import CANCELLED, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, Status

_DIED: Final = frozenset((UNAVAILABLE, CANCELLED, INTERNAL))
"""The gRPC status of a stream that was cut off: connection lost, GOAWAY, RST_STREAM."""
_ANSWERED: Final = frozenset((Outcome.STEERED, Outcome.REFUSED_BY_PICKER))


def reason_of(status: Status) -> Reason | None:
    """Why a picker's stream ended, None if it ended with OK. A gRPC status becomes a reason only here."""
    if status.code == 0:
        return None
    if status.code == UNAVAILABLE and not status.said:
        return Reason.PICKER_UNREACHABLE
    if status.code == DEADLINE_EXCEEDED:
        return Reason.PICKER_TIMEOUT
    return Reason.PICKER_ERROR


def was_cut_off(status: Status) -> bool:
    """Whether the stream was cut off. The picker may not be at fault, so another address may succeed."""
    return status.code in _DIED


def ended_undecided(
    address: PickerAddress, request: Waiting, status: Status, picks_before: int
) -> None:
    """The stream ended before there was a pick."""
    connection = address.connection
    alive = connection is not None and connection.usable
    if status.code == UNAVAILABLE and not status.said and alive:
        address.pick_failed(request, picks_before)
    else:
        # `PickerAddress` notices a lost connection itself.
        address.undecided(request)


def decided(
    address: PickerAddress, request: Waiting, exchange: Exchange, picks_before: int
) -> None:
    """The request is decided."""
    failure = exchange.result.failure
    if exchange.result.outcome in _ANSWERED or failure in PICK_REASONS:
        address.picked(request)
    elif failure is Reason.PICKER_TIMEOUT and (exchange.request_ended or exchange.stalled):
        address.pick_failed(request, picks_before)
    else:
        # The cause may also be a client that sends nothing.
        address.undecided(request)
