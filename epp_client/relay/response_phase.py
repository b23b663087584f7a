"""The response phase: message by message through the picker, or past it once it has lost its say. Pure."""

from typing import Final

from epp_client.errors import EnvoyViolation, PickerViolation, Reason
from epp_client.ext_proc.messages import Answer, Message, Phase, Reply, read_reply
from epp_client.picker.mutations import MAX_HEADER_BYTES, MAX_HTTP1_RESPONSE_BYTES
from epp_client.picker.preparation import read_endpoint_failure, read_served
from epp_client.picker.steering import (
    body_reply,
    response_headers_reply,
    trailers_reply,
)
from epp_client.pool.inference_pool import AppProtocol
from epp_client.pool.settings import ResponseMode
from epp_client.relay.actions import Arm, CancelPicker, Timer, ToPicker
from epp_client.relay.lane import Lane
from epp_client.relay.outcome import Outcome
from epp_client.relay.state import QUARTERS, State

TRAILERS_PATIENCE: Final = 1.0
"""Seconds that the answer to trailers may take at most: so a picker that ignores them is found out."""
_EVENT_STREAM: Final = b"text/event-stream"
_NO_MUTATION: Final = 4
"""Bytes of an answer to headers or trailers that is too short to change any."""


def response_message(state: State, message: Message) -> None:
    """Envoy has sent a part of the response."""
    lane = state.response
    if message.phase is Phase.RESPONSE_HEADERS:
        if lane.begun:
            raise EnvoyViolation("response headers came twice")
        state.response_headers = message.raw
        state.chunk_by_chunk = _EVENT_STREAM in message.raw
        served, raw = read_served(message.raw)
        if served is not None:
            state.endpoint = served
        if state.outcome is None:
            # An answer of Envoy's own, or of another filter, before there was a pick: nothing to steer.
            _abandon_request(state)
        else:
            state.endpoint_failure = read_endpoint_failure(message.raw)
        if state.settings.response_mode is not ResponseMode.RELAY and not lane.passing:
            lane.take_over()
    elif not lane.begun or lane.ended:
        raise EnvoyViolation("a response message came out of order")
    else:
        raw = message.raw
        if message.phase is Phase.RESPONSE_TRAILERS:
            state.response_trailers = raw
    if message.phase is Phase.RESPONSE_BODY and not lane.has_room(message):
        # It could not be given back: what the picker does not answer then would be lost.
        pass_response(state, Reason.BODY_NOT_RETAINED)
    state.send(lane.put(message))
    state.response_quiet = 0
    if not state.picker_open or state.settings.response_mode is ResponseMode.SKIP:
        return
    if lane.answered_whole:
        return
    state.out.append(ToPicker(raw))
    if not lane.passing:
        response_progress(state)


def _abandon_request(state: State) -> None:
    state.outcome = Outcome.LOCAL_REPLY
    state.disarm_pick()
    if state.picker_open:
        state.picker_open = False
        state.out.append(CancelPicker())
    state.request.abandon()
    state.response.take_over()


def response_reply(state: State, reply: Reply) -> None:
    """The picker has answered a part of the response."""
    lane = state.response
    state.response_quiet = 0
    raw = reply.raw
    if reply.answer is Answer.RESPONSE_HEADERS:
        if len(raw) <= _NO_MUTATION:
            state.send(lane.answer_headers(raw))
        else:
            http1 = state.pool.app_protocol is AppProtocol.HTTP
            raw, replacement = response_headers_reply(
                raw,
                state.response_headers,
                state.left_out,
                MAX_HTTP1_RESPONSE_BYTES if http1 else MAX_HEADER_BYTES,
                headers_only=lane.headers_only,
            )
            state.send(lane.answer_headers(raw))
            if replacement is not None:
                state.send(lane.answer_whole(replacement.payload))
    elif reply.answer is Answer.RESPONSE_BODY:
        state.chunk_by_chunk = True
        if reply.has_more:
            _, raw = body_reply(raw)
            reply = read_reply(raw)
        state.send(lane.answer_body(reply))
        if lane.staged_full is not None:
            raise PickerViolation("body answers without a header answer")
    else:
        state.trailers_answered = True
        if len(raw) > _NO_MUTATION:
            raw = trailers_reply(raw, state.response_trailers, state.left_out)
        state.send(lane.answer_trailers(raw))
    response_progress(state)


def response_progress(state: State) -> None:
    """Start the deadline of what the picker owes to the response, if it does not run."""
    lane = state.response
    if lane.waits_for_trailers_only:
        owed_trailers(state, lane)
    elif not state.response_armed and response_owed(state):
        state.response_armed = True
        state.response_quiet = 0
        state.out.append(Arm(Timer.RESPONSE, state.settings.response_timeout / QUARTERS))


def response_owed(state: State) -> bool:
    """Whether the picker is to answer now. Many answer the whole of a body that is no stream of events, and
    so not before its end: llm-d's EPP does."""
    lane = state.response
    due = not lane.headers_sent or lane.ended or state.chunk_by_chunk or state.stalled
    return due and lane.owes


def response_rang(state: State) -> None:
    """The response has been silent for a while."""
    state.response_armed = False
    lane = state.response
    if lane.waits_for_trailers_only or not response_owed(state):
        return  # the next message starts the deadline anew
    quiet = state.response_quiet + 1
    if quiet > QUARTERS:
        state.hint = "response-timeout"
        pass_response(state, Reason.PICKER_TIMEOUT)
    else:
        response_progress(state)
        state.response_quiet = quiet


def owed_trailers(state: State, lane: Lane) -> None:
    """Only the trailers of a lane are unanswered: some pickers never do."""
    if not state.trailers_expected:
        state.send(lane.take_over())
    elif not state.trailers_armed:
        state.trailers_armed = True
        seconds = min(TRAILERS_PATIENCE, state.settings.response_timeout)
        state.out.append(Arm(Timer.TRAILERS, seconds))


def trailers_overdue(state: State) -> None:
    """The picker has left trailers without an answer for too long."""
    state.trailers_armed = False
    for lane in (state.request, state.response):
        if lane.waits_for_trailers_only and not lane.passing:
            state.trailers_answered = False
            state.send(lane.take_over())


def pass_response(state: State, reason: Reason) -> None:
    """It still gets copies of the response (usage data), but has no say in it any more."""
    if not state.response.passing:
        state.passthrough = reason
        state.ignore_picker = True
        state.send(state.response.take_over())
