"""The transition table of an exchange: what each event does in each phase, and the phases that may follow.

The events are the kinds of Envoy's messages, the kinds of the picker's answers, and the signals. An event
without a row is ignored, for example an answer that is not needed any more, or a timer that rang too late.
`docs/reference` draws this table, and tests compare it with the behaviour of an exchange.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, TypeVar

from epp_client.errors import EnvoyViolation, Reason
from epp_client.ext_proc.messages import Answer, Message, Phase, Reply
from epp_client.relay.answering import (
    answer_begun,
    answer_continued,
    answer_too_late,
    evicted,
    refused_by_picker,
)
from epp_client.relay.ending import answer_broke_off, answer_dropped, envoy_closed
from epp_client.relay.phases import ExchangePhase, Signal
from epp_client.relay.request_phase import (
    answer_waited,
    begin,
    endpoint_rang,
    keep_request,
    pass_request,
    pick_rang,
    picker_died,
    picker_failed,
    picker_left,
    picker_left_early,
    picker_left_waiting,
    picker_stalled,
    relay_request,
    request_reply,
    response_too_early,
    table_changed,
)
from epp_client.relay.response_phase import (
    local_reply,
    pass_response,
    picker_silent,
    relay_response,
    response_rang,
    response_reply,
    trailers_rang,
)
from epp_client.relay.state import State
from epp_client.relay.without_picker import end_came

OnMessage = Callable[[State, Message], None]
OnReply = Callable[[State, Reply], None]
OnSignal = Callable[[State, Reason | None], None]
Phases = tuple[ExchangePhase, ...]

NEW: Final = ExchangePhase.NEW
PICKING: Final = ExchangePhase.PICKING
WAITING: Final = ExchangePhase.WAITING_FOR_ENDPOINT
ALONE: Final = ExchangePhase.WAITING_WITHOUT_PICKER
ENDING: Final = ExchangePhase.WAITING_FOR_END
RELAYING: Final = ExchangePhase.RELAYING
PASSING: Final = ExchangePhase.PASSING
ANSWERING: Final = ExchangePhase.ANSWERING
CLOSED: Final = ExchangePhase.CLOSED

REQUEST: Final = (Phase.REQUEST_BODY, Phase.REQUEST_TRAILERS)
RESPONSE: Final = (Phase.RESPONSE_HEADERS, Phase.RESPONSE_BODY, Phase.RESPONSE_TRAILERS)
REQUEST_REPLY: Final = (Answer.REQUEST_HEADERS, Answer.REQUEST_BODY, Answer.REQUEST_TRAILERS)
RESPONSE_REPLY: Final = (Answer.RESPONSE_HEADERS, Answer.RESPONSE_BODY, Answer.RESPONSE_TRAILERS)


def out_of_order(_: State, message: Message) -> None:
    """Raises: EnvoyViolation: the message is not allowed in this phase."""
    raise EnvoyViolation(f"{message.phase.name.lower()} came out of order")


# A row: events, phases, the handler, and the phases that may follow. A handler may also find a protocol
# violation, which closes the exchange or drops the picker.

FROM_ENVOY: Final[list[tuple[tuple[Phase, ...], Phases, OnMessage, Phases]]] = [
    ((Phase.REQUEST_HEADERS,), (NEW,), begin, (PICKING, ENDING, PASSING, CLOSED)),
    (REQUEST, (PICKING,), relay_request, (RELAYING, PASSING, CLOSED)),
    (REQUEST, (WAITING, RELAYING), relay_request, (CLOSED,)),
    (REQUEST, (ALONE, PASSING), pass_request, (CLOSED,)),
    (REQUEST, (ENDING,), keep_request, (PASSING, CLOSED)),
    ((Phase.RESPONSE_HEADERS,), (NEW, PICKING, WAITING, ALONE, ENDING), local_reply, (PASSING,)),
    (RESPONSE, (RELAYING,), relay_response, (CLOSED,)),
    (RESPONSE, (PASSING,), pass_response, (CLOSED,)),
    (
        (Phase.REQUEST_HEADERS,),
        (PICKING, WAITING, ALONE, ENDING, RELAYING, PASSING),
        out_of_order,
        (CLOSED,),
    ),
    (REQUEST, (NEW,), out_of_order, (CLOSED,)),
    (RESPONSE[1:], (NEW, PICKING, WAITING, ALONE, ENDING), out_of_order, (CLOSED,)),
]

FROM_PICKER: Final[list[tuple[tuple[Answer, ...], Phases, OnReply, Phases]]] = [
    (REQUEST_REPLY, (PICKING,), request_reply, (WAITING, ENDING, RELAYING, PASSING, CLOSED)),
    (REQUEST_REPLY, (WAITING,), request_reply, (ENDING, RELAYING, PASSING, CLOSED)),
    (REQUEST_REPLY, (RELAYING,), request_reply, (PASSING, CLOSED)),
    (RESPONSE_REPLY, (PICKING, WAITING), response_too_early, (ENDING, PASSING, CLOSED)),
    (RESPONSE_REPLY, (RELAYING,), response_reply, (PASSING, CLOSED)),
    ((Answer.IMMEDIATE,), (PICKING, WAITING), refused_by_picker, (ENDING, PASSING, CLOSED)),
    ((Answer.IMMEDIATE,), (RELAYING,), evicted, (PASSING, CLOSED)),
    (
        (Answer.STREAMED_IMMEDIATE,),
        (PICKING, WAITING),
        answer_begun,
        (ANSWERING, ENDING, PASSING, CLOSED),
    ),
    ((Answer.STREAMED_IMMEDIATE,), (RELAYING,), answer_too_late, (PASSING, CLOSED)),
    ((Answer.STREAMED_IMMEDIATE,), (ANSWERING,), answer_continued, (CLOSED,)),
]
"""MORE_TIME is ignored: in full-duplex mode Envoy has no deadline that could be extended."""

SIGNALS: Final[list[tuple[tuple[Signal, ...], Phases, OnSignal, Phases]]] = [
    ((Signal.PICKER_ENDED,), (PICKING,), picker_left_early, (ENDING, PASSING, CLOSED)),
    ((Signal.PICKER_ENDED,), (WAITING,), picker_left_waiting, (ALONE,)),
    ((Signal.PICKER_ENDED,), (RELAYING,), picker_left, (PASSING, CLOSED)),
    ((Signal.PICKER_FAILED,), (PICKING, WAITING), picker_failed, (ENDING, PASSING, CLOSED)),
    ((Signal.PICKER_FAILED,), (RELAYING,), picker_failed, (PASSING, CLOSED)),
    ((Signal.PICKER_DIED,), (PICKING, WAITING), picker_died, (PICKING, ENDING, PASSING, CLOSED)),
    ((Signal.PICKER_DIED,), (RELAYING,), picker_failed, (PASSING, CLOSED)),
    (
        (Signal.PICKER_ENDED, Signal.PICKER_FAILED, Signal.PICKER_DIED),
        (ANSWERING,),
        answer_broke_off,
        (CLOSED,),
    ),
    ((Signal.PICKER_STALLED,), (PICKING, WAITING, RELAYING), picker_stalled, ()),
    ((Signal.PICKER_SILENT,), (RELAYING,), picker_silent, (PASSING, CLOSED)),
    ((Signal.PICKER_SILENT,), (ANSWERING,), answer_dropped, (CLOSED,)),
    ((Signal.PICK_RANG,), (PICKING,), pick_rang, (ENDING, PASSING, CLOSED)),
    ((Signal.PICK_RANG,), (RELAYING,), pick_rang, (PASSING, CLOSED)),
    (
        (Signal.ENDPOINT_RANG,),
        (WAITING,),
        endpoint_rang,
        (PICKING, ENDING, RELAYING, PASSING, CLOSED),
    ),
    ((Signal.ENDPOINT_RANG,), (ALONE,), endpoint_rang, (ENDING, PASSING, CLOSED)),
    ((Signal.RESPONSE_RANG,), (RELAYING,), response_rang, ()),
    ((Signal.TRAILERS_RANG,), (RELAYING,), trailers_rang, ()),
    ((Signal.END_RANG,), (PICKING,), answer_waited, (RELAYING,)),
    ((Signal.END_RANG,), (ENDING,), end_came, (PASSING, CLOSED)),
    ((Signal.POOL_CHANGED,), (WAITING,), table_changed, (PICKING, RELAYING, PASSING, CLOSED)),
    ((Signal.POOL_CHANGED,), (ALONE,), table_changed, (PASSING, CLOSED)),
    (
        (Signal.ENVOY_CLOSED,),
        (NEW, PICKING, WAITING, ALONE, ENDING, RELAYING, PASSING, ANSWERING),
        envoy_closed,
        (CLOSED,),
    ),
]


def _ignore(*_: object) -> None:
    """Do nothing."""


Handler = TypeVar("Handler")


def _table(
    rows: Sequence[tuple[Sequence[IntEnum], Phases, Handler, Phases]],
    kinds: type[IntEnum],
    ignore: Handler,
) -> list[list[Handler]]:
    """The handlers by kind of event and by phase."""
    table = [[ignore] * len(ExchangePhase) for _ in range(max(kinds) + 1)]
    for events, phases, handler, _ in rows:
        for event in events:
            for phase in phases:
                table[event][phase] = handler
    return table


ON_MESSAGE: Final[list[list[OnMessage]]] = _table(FROM_ENVOY, Phase, _ignore)
"""By kind of message, and by phase."""
ON_REPLY: Final[list[list[OnReply]]] = _table(FROM_PICKER, Answer, _ignore)
"""By kind of answer, and by phase."""
ON_SIGNAL: Final[list[list[OnSignal]]] = _table(SIGNALS, Signal, _ignore)
"""By signal, and by phase."""
