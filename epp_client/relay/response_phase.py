"""The response phase: message by message through the picker, or past it once it has lost its say. Pure."""

from typing import Final

from epp_client.errors import MalformedMessage, Reason
from epp_client.ext_proc.messages import Answer, Message, Phase, Reply, read_reply
from epp_client.picker.protocol import (
    check_mutation,
    parse_reply,
    read_served,
    without_destination,
)
from epp_client.pool.settings import ResponseMode
from epp_client.relay.actions import Arm, CancelPicker, Disarm, Timer, ToPicker
from epp_client.relay.lane import Lane
from epp_client.relay.outcome import Outcome
from epp_client.relay.state import State

_NO_MUTATION: Final = 8
"""Bytes of a header answer that is too short to change a header."""


def response_message(state: State, message: Message) -> None:
    """Envoy has sent a part of the response."""
    lane = state.response
    if message.phase is Phase.RESPONSE_HEADERS:
        if lane.begun:
            raise MalformedMessage("response headers came twice")
        state.response_headers = message.raw
        served, raw = read_served(message.raw)
        if served is not None:
            state.endpoint = served
        if state.outcome is None:
            # An answer of Envoy's own, before there was a pick: nothing to steer any more.
            _abandon_request(state)
        if state.settings.response_mode is not ResponseMode.RELAY and not lane.passing:
            lane.take_over()
    elif not lane.begun or lane.ended:
        raise MalformedMessage("a response message came out of order")
    else:
        raw = message.raw
    if message.phase is Phase.RESPONSE_BODY and not lane.has_room(message):
        # It could not be given back: what the picker does not answer then would be lost.
        _pass_response(state, Reason.BODY_NOT_RETAINED)
    state.send(lane.put(message))
    if not state.picker_open or state.settings.response_mode is ResponseMode.SKIP:
        return
    state.out.append(ToPicker(raw))
    if not lane.passing:
        response_progress(state, anew=False)


def _abandon_request(state: State) -> None:
    state.outcome = Outcome.CANCELLED
    state.out.append(Disarm(Timer.PICK))
    if state.picker_open:
        state.picker_open = False
        state.out.append(CancelPicker())
    # Envoy has stopped waiting for answers to the request.
    state.request.take_over()
    state.response.take_over()


def response_reply(state: State, reply: Reply) -> None:
    """The picker has answered a part of the response."""
    lane = state.response
    if reply.has_more:
        reply = read_reply(without_destination(reply.raw))
    if reply.answer is Answer.RESPONSE_HEADERS:
        if len(reply.raw) > _NO_MUTATION:
            mutation = parse_reply(reply.raw).response_headers.response.header_mutation
            check_mutation(mutation, state.response_headers)
        state.send(lane.answer_headers(reply.raw))
    elif reply.answer is Answer.RESPONSE_BODY:
        state.send(lane.answer_body(reply))
        if lane.staged_full is not None:
            raise MalformedMessage("body answers without a header answer")
    else:
        state.trailers_answered = True
        state.send(lane.answer_trailers(reply.raw))
    response_progress(state, anew=True)


def response_progress(state: State, *, anew: bool) -> None:
    """Keep the deadline of what the picker owes; `anew` when it has just answered something.

    The trailers of the request have the same deadline, and a response does not put theirs off.
    """
    lane = state.response
    request_waits = state.picker_open and state.request.waits_for_trailers_only
    if lane.waits_for_trailers_only:
        owed_trailers(state, lane)
    elif lane.owes and not lane.passing:
        if not state.response_armed or (anew and not request_waits):
            state.response_armed = True
            state.out.append(Arm(Timer.RESPONSE, state.settings.response_timeout))
    elif state.response_armed and not request_waits:
        state.response_armed = False
        state.out.append(Disarm(Timer.RESPONSE))


def owed_trailers(state: State, lane: Lane) -> None:
    """Only the trailers of a lane are unanswered: some pickers never do."""
    if not state.trailers_expected:
        state.send(lane.take_over())
    elif not state.response_armed:
        state.response_armed = True
        state.out.append(Arm(Timer.RESPONSE, state.settings.response_timeout))


def response_overdue(state: State) -> None:
    """The picker has owed an answer for too long."""
    for lane in (state.request, state.response):
        if lane.waits_for_trailers_only:
            state.trailers_answered = False
            state.send(lane.take_over())
            response_progress(state, anew=True)  # the response may have begun, and be owed as well
            return
    if state.response.owes:
        _pass_response(state, Reason.PICKER_TIMEOUT)


def _pass_response(state: State, reason: Reason) -> None:
    """It still gets copies of the response (usage data), but has no say in it any more."""
    if not state.response.passing:
        state.passthrough = reason
        state.ignore_picker = True
        state.send(state.response.take_over())
