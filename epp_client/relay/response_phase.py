"""The response: it goes to the picker message by message, or continues without the picker. Pure."""

from typing import Final

from epp_client.errors import EnvoyViolation, PickerViolation, Reason
from epp_client.ext_proc.messages import Answer, Message, Phase, Reply, read_reply
from epp_client.picker.mutations import MAX_HEADER_BYTES, MAX_HTTP1_RESPONSE_BYTES
from epp_client.picker.preparation import read_endpoint_failure, read_served
from epp_client.picker.steering import body_reply, response_headers_reply, trailers_reply
from epp_client.pool.inference_pool import AppProtocol
from epp_client.relay.actions import CancelPicker, Timer, ToPicker
from epp_client.relay.lane import Lane
from epp_client.relay.lane_states import Received
from epp_client.relay.outcome import Outcome
from epp_client.relay.state import QUARTERS, State
from epp_client.relay.uses import Use
from epp_client.relay.without_picker import drop_picker, pass_both

TRAILERS_PATIENCE: Final = 1.0
"""Longest wait for the answer to trailers, in seconds. Some pickers never answer them."""
_EVENT_STREAM: Final = b"text/event-stream"
_SERVER_ERROR: Final = b":status\x1a\x035"
"""The beginning of a status of 500 or above: Envoy writes the value of a header as bytes (field 3), and no
value has a control character, so this is nothing else."""
_NO_MUTATION: Final = 4
"""Largest size of an answer to headers or trailers without a mutation, in bytes."""

# Constants, because a member of an enum that is not compiled costs two look-ups for each message.
_READ: Final = Use.READ
_CHANGED: Final = Use.CHANGED


# --- from Envoy ---


def local_reply(state: State, message: Message) -> None:
    """A response before the pick: Envoy or another of its filters has answered, so no endpoint is
    needed."""
    _receive(state, message)
    if state.picker_open:
        state.out.add(CancelPicker())
    state.result.outcome = Outcome.LOCAL_REPLY
    state.request.abandon()
    pass_both(state)
    state.response.put(message)


def relay_response(state: State, message: Message) -> None:
    """Send a part of the response to the picker."""
    lane = state.response
    raw = _receive(state, message)
    if message.phase is Phase.RESPONSE_HEADERS:
        # `in` takes ten times as long: it raises an error to find out that the operand is no int.
        state.chunk_by_chunk = message.raw.find(_EVENT_STREAM) >= 0
        if not state.settings.response_changed:
            lane.take_over()
    elif message.phase is Phase.RESPONSE_BODY and not lane.has_room(message):
        # Without room for it, it could not be sent if the picker does not answer.
        _silence_picker(state, Reason.BODY_NOT_RETAINED)
    lane.put(message)
    state.response_quiet = 0
    if not state.settings.response_shown or lane.answered_whole:
        return
    state.out.add(ToPicker(raw))
    if not lane.passing:
        response_progress(state)


def pass_response(state: State, message: Message) -> None:
    """Answer a part of the response without the picker."""
    _receive(state, message)
    state.response.put(message)


def _receive(state: State, message: Message) -> bytes:
    """Check the order, and read what Envoy reports about the endpoint. Returns the message for the picker.

    Raises:
        EnvoyViolation: the message is out of order.
    """
    lane = state.response
    if message.phase is not Phase.RESPONSE_HEADERS:
        if not lane.open:
            raise EnvoyViolation("a response message came out of order")
        return message.raw
    if lane.begun:
        raise EnvoyViolation("response headers came twice")
    served, raw = read_served(message.raw)
    if served is not None:
        state.result.endpoint = served
    if state.result.outcome is not None:
        state.result.endpoint_failure = read_endpoint_failure(message.raw)
        state.result.endpoint_error = (
            message.raw.find(_SERVER_ERROR) >= 0 and state.result.endpoint_failure is None
        )
    return raw


# --- from the picker ---


def response_reply(state: State, reply: Reply) -> None:
    """The picker has answered a part of the response.

    Raises:
        PickerViolation: the response has not begun, or body answers come without a header answer.
    """
    lane = state.response
    if not lane.begun:
        raise PickerViolation("the picker answered a response that has not begun")
    if lane.passing:
        return
    state.response_quiet = 0
    if reply.answer is Answer.RESPONSE_HEADERS:
        _headers_reply(state, reply.raw)
    elif reply.answer is Answer.RESPONSE_BODY:
        state.chunk_by_chunk = True
        if reply.has_more:
            _, raw = body_reply(reply.raw)
            reply = read_reply(raw)
        lane.answer_body(reply)
        if lane.staged_full is not None:
            raise PickerViolation("body answers without a header answer")
    else:
        state.result.trailers_answered = True
        raw = reply.raw
        if len(raw) > _NO_MUTATION:
            state.result.response_use = _CHANGED
            raw = trailers_reply(raw, lane.trailers, state.result.left_out)
        lane.answer_trailers(raw)
    response_progress(state)


def _headers_reply(state: State, raw: bytes) -> None:
    lane = state.response
    if len(raw) <= _NO_MUTATION:
        state.result.response_use = _READ
        lane.answer_headers(raw)
        return
    state.result.response_use = _CHANGED
    http1 = state.pool.app_protocol is AppProtocol.HTTP
    raw, replacement = response_headers_reply(
        raw,
        lane.headers,
        state.result.left_out,
        MAX_HTTP1_RESPONSE_BYTES if http1 else MAX_HEADER_BYTES,
        headers_only=lane.received is Received.ENDED_BY_HEADERS,
    )
    lane.answer_headers(raw)
    if replacement is not None:
        lane.answer_whole(replacement.payload)


# --- deadlines ---


def response_progress(state: State) -> None:
    """Start the deadline of the response if the picker owes an answer and the deadline does not run."""
    lane = state.response
    if lane.waits_for_trailers_only:
        owed_trailers(state, lane)
    elif not state.response_armed and _owed(state):
        state.response_quiet = 0
        state.arm(Timer.RESPONSE, state.settings.response_timeout / QUARTERS)


def _owed(state: State) -> bool:
    """Whether the picker should answer the response now. Many pickers answer a body only at its end, unless
    it is a stream of events. llm-d's EPP is one of them."""
    lane = state.response
    due = not lane.headers_sent or lane.ended or state.chunk_by_chunk or state.stalled
    return due and lane.owes


def response_rang(state: State, _: Reason | None) -> None:
    """The response has made no progress for a quarter of its deadline."""
    if state.response.waits_for_trailers_only or not _owed(state):
        # The next message starts the deadline again.
        return
    quiet = state.response_quiet + 1
    if quiet > QUARTERS:
        state.result.hint = "response-timeout"
        _silence_picker(state, Reason.PICKER_TIMEOUT)
    else:
        response_progress(state)
        state.response_quiet = quiet


def owed_trailers(state: State, lane: Lane) -> None:
    """Only the trailers of a lane are unanswered: wait for their answer for a short time."""
    if not state.trailers_expected:
        lane.take_over()
    elif not state.armed[Timer.TRAILERS]:
        state.arm(Timer.TRAILERS, min(TRAILERS_PATIENCE, state.settings.response_timeout))


def trailers_rang(state: State, _: Reason | None) -> None:
    """The picker has not answered trailers in time."""
    for lane in (state.request, state.response):
        if lane.waits_for_trailers_only and not lane.passing:
            state.result.trailers_answered = False
            lane.take_over()


def picker_silent(state: State, reason: Reason | None) -> None:
    """The picker does not answer anything: stop waiting for the answers that it owes now."""
    reason = reason or Reason.PICKER_UNHEALTHY
    if state.request.owes:
        drop_picker(state, reason)
    elif _owed(state):
        _silence_picker(state, reason)


def _silence_picker(state: State, reason: Reason) -> None:
    """Answer the response without the picker. It still gets copies of the response (usage data)."""
    if not state.response.passing:
        state.result.passthrough = reason
        state.response.take_over()
