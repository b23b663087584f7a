"""The request: from Envoy's first message to a pick that is judged and released. Pure.

Everything is held back until the pick is judged. If the request has ended, the release also waits for the
picker's complete answer, including all its body chunks. If the picker dies in the middle of it, the
original body can still be sent. A request that does not end within a moment streams through.
"""

from typing import Final

from epp_client.errors import EnvoyViolation, PickerViolation, Reason
from epp_client.ext_proc.messages import (
    Answer,
    Message,
    Phase,
    Reply,
    read_reply,
    with_end_of_stream,
)
from epp_client.ext_proc.replies import EMPTY, END_OF_REQUEST_BODY
from epp_client.picker.pick import judge
from epp_client.picker.preparation import is_upgrade, prepare_request_headers
from epp_client.picker.steering import HeaderReply, body_reply, trailers_reply
from epp_client.relay.actions import FinishPicker, OpenPicker, Timer, ToPicker
from epp_client.relay.ending import refuse
from epp_client.relay.lane_states import Received
from epp_client.relay.outcome import Outcome
from epp_client.relay.phases import ExchangePhase
from epp_client.relay.response_phase import owed_trailers, response_progress
from epp_client.relay.state import QUARTERS, State
from epp_client.relay.uses import Use
from epp_client.relay.without_picker import (
    drop_picker,
    end_came,
    go_local,
    pass_both,
    without_picker,
)

ACKNOWLEDGEMENT_WAIT: Final = 5.0
"""Shortest wait for Envoy to acknowledge an endpoint that the table has, in seconds; `endpoint_wait` may be
longer. A busy Envoy needs time, and answers 503 as long as it does not have the endpoint."""
MAX_ATTEMPTS: Final = 3
"""Streams that one request may open. In a rolling restart of the picker it needs one or two more."""

# Constants, because a member of an enum that is not compiled costs two look-ups for each request.
_STEERED: Final = Outcome.STEERED


# --- from Envoy ---


def begin(state: State, message: Message) -> None:
    """The headers of the request have arrived."""
    state.headers = headers = prepare_request_headers(message.raw, state.snapshot)
    state.upgrade, state.headers_only = is_upgrade(message), message.headers_only
    if not message.end_of_stream and (state.upgrade or state.headers_only):
        # The picker gets no body, so it must not wait for one.
        headers.raw = with_end_of_stream(headers.raw)
        message.end_of_stream = state.headers_only
    state.request.put(message)
    if headers.subset is not None and not headers.subset.ready:
        refuse(state, Reason.SUBSET_EMPTY)
        return
    target = state.snapshot.picker
    if target is None:
        go_local(state, Outcome.LOCAL_PICK, None)
    elif not target.addresses:
        without_picker(state, Reason.PICKER_UNRESOLVED)
    else:
        _ask(state)
        state.arm_pick()


def relay_request(state: State, message: Message) -> None:
    """Send a further part of the body, or trailers, to the picker."""
    lane = state.request
    if state.awaiting_end and not lane.has_room(message):
        answer_waited(state, None)
    pass_request(state, message)
    state.request_quiet = 0
    if not (state.upgrade or state.headers_only or lane.answered_whole):
        _tell_picker(state, message)
    if state.awaiting_end and lane.ended:
        answer_waited(state, None)


def _tell_picker(state: State, message: Message) -> None:
    lane = state.request
    if message.phase is Phase.REQUEST_TRAILERS:
        # GAIE's picker picks at the end of the body and ignores trailers.
        if not lane.passing:
            lane.expect_end_answer()
        state.out.add(ToPicker(END_OF_REQUEST_BODY))
    state.out.add(ToPicker(message.raw))
    state.arm_pick()
    if lane.headers_sent:
        _under_way(state)


def pass_request(state: State, message: Message) -> None:
    """Answer a further part of the body, or trailers, without the picker.

    Raises:
        EnvoyViolation: the request has not begun, or has ended.
    """
    if state.headers_only and message.phase is Phase.REQUEST_TRAILERS:
        # `envoy-config` prints no such Envoy: without the body, and with the trailers.
        state.out.send(EMPTY[Answer.REQUEST_TRAILERS])
        return
    if not state.request.open:
        raise EnvoyViolation("a part of the request came before its headers, or after its end")
    state.request.put(message)


def keep_request(state: State, message: Message) -> None:
    """Keep a further part of the body, or trailers, while a local pick waits for the end of the request."""
    if not state.request.has_room(message):
        end_came(state)
    if state.phase is ExchangePhase.CLOSED:
        return
    pass_request(state, message)
    if state.request.ended and not state.request.passing:
        end_came(state)


# --- the picker's stream ---


def _ask(state: State) -> None:
    """Open a stream to the picker, and send what Envoy has sent so far."""
    assert state.headers is not None
    state.phase, state.stalled = ExchangePhase.PICKING, False
    state.attempts += 1
    state.growth.forget()
    state.disarm(Timer.END)
    state.header_reply, state.pick, state.keys = None, None, ()
    state.out.add(OpenPicker())
    state.out.add(ToPicker(state.headers.raw))
    for raw in state.request.restart():
        if not state.upgrade:
            state.out.add(ToPicker(raw))
    if state.request.has_trailers:
        state.out.add(ToPicker(state.request.trailers))


def picker_died(state: State, reason: Reason | None) -> None:
    """The stream was cut off before the pick was released. Ask again, if a second try can succeed."""
    if state.attempts >= MAX_ATTEMPTS or state.request.lost:
        picker_failed(state, reason)
        return
    waited = state.armed[Timer.ENDPOINT]
    _ask(state)
    if waited:
        state.disarm(Timer.ENDPOINT)
        state.arm_pick()
    elif not state.request.ended:
        # The deadline may have counted the silence of the stream that died.
        state.arm_pick(anew=True)


def picker_failed(state: State, reason: Reason | None) -> None:
    """The stream has ended with an error."""
    without_picker(state, reason or Reason.PICKER_CLOSED)


def picker_left(state: State, _: Reason | None) -> None:
    """The picker has ended its stream after the pick was released: it needs no more messages."""
    if not state.response.begun:
        state.result.response_use = Use.IGNORED
    without_picker(state, Reason.PICKER_CLOSED, clean=True)


def picker_left_early(state: State, _: Reason | None) -> None:
    """The picker has ended its stream before its answer was released. The answer may still be complete."""
    if state.keys:
        _release_without_picker(state)
    else:
        without_picker(state, Reason.PICKER_CLOSED, clean=True)


def picker_left_waiting(state: State, _: Reason | None) -> None:
    """The picker has ended its stream while its pick waits for the endpoint."""
    state.phase = ExchangePhase.WAITING_WITHOUT_PICKER


def picker_stalled(state: State, _: Reason | None) -> None:
    """The backlog to the picker is full, or has room again. Start the deadlines: a request or response that
    cannot end because the backlog to the picker is full would otherwise never have one."""
    if not state.request.ended:
        state.arm_pick(anew=True)
    response_progress(state)


# --- from the picker ---


def request_reply(state: State, reply: Reply) -> None:
    """The picker has answered a part of the request."""
    lane = state.request
    state.request_quiet = 0
    if reply.answer is Answer.REQUEST_HEADERS:
        if state.header_reply is not None or lane.headers_sent:
            # A second header answer changes nothing.
            return
        state.header_reply = said = HeaderReply(
            reply.raw,
            lane.headers,
            state.result.left_out,
            headers_only=lane.received is Received.ENDED_BY_HEADERS,
        )
        lane.hold(reply.raw)
        state.pick = said.pick or state.pick
        state.result.body_unwanted = said.body_unwanted
        if said.replacement is not None:
            lane.answer_whole(said.replacement.payload)
    elif reply.answer is Answer.REQUEST_BODY:
        if reply.has_more:
            pick, raw = body_reply(reply.raw)
            state.pick = state.pick or pick
            reply = read_reply(raw)
        lane.answer_body(reply)
    else:
        state.result.trailers_answered = True
        answer = trailers_reply(reply.raw, lane.trailers, state.result.left_out)
        lane.answer_trailers(answer)
    if lane.headers_sent:
        _under_way(state)
    else:
        _progress(state)


def response_too_early(_: State, __: Reply) -> None:
    """Raises: PickerViolation: the response has not begun."""
    raise PickerViolation("the picker answered a response that has not begun")


def _progress(state: State) -> None:
    """Release the answer, if the pick is judged and the answer is complete."""
    lane = state.request
    full = lane.staged_full
    if state.header_reply is None or state.pick is None:
        if full:
            drop_picker(state, full)
        elif state.header_reply is not None and lane.staged_whole:
            # A body answer could have the pick, but no more body answers will come.
            drop_picker(state, Reason.PICK_MISSING)
        return
    if not state.keys:
        # If no more of the body can be held back, the pick does not wait for a newer table.
        if state.phase is ExchangePhase.WAITING_FOR_ENDPOINT and not full:
            return
        if not _judge(state, last=full is not None):
            return
    if full or (lane.staged_whole if lane.ended else not state.waits_for_end()):
        _release(state)


def answer_waited(state: State, _: Reason | None) -> None:
    """The request has ended, or the picker's answer must not wait for its end any longer."""
    state.end_awaited = True
    _progress(state)


def _under_way(state: State) -> None:
    """The header answer is released: follow the rest of the picker's answer."""
    lane = state.request
    if lane.complete:
        state.disarm(Timer.PICK)
        state.disarm(Timer.TRAILERS)
        response_progress(state)
    elif lane.waits_for_trailers_only:
        state.disarm(Timer.PICK)
        owed_trailers(state, lane)


# --- the pick ---


def pick_rang(state: State, _: Reason | None) -> None:
    """The pick is late, or a request that is being sent has made no progress for a quarter of the
    deadline."""
    if state.watching:
        if not state.request.owes:
            # The picker has answered everything so far. The next message starts the deadline again.
            return
        quiet = state.request_quiet + 1
        if quiet <= QUARTERS:
            state.arm_pick()
            state.request_quiet = quiet
            return
    state.result.hint = "pick-timeout"
    drop_picker(state, Reason.PICKER_TIMEOUT)


def table_changed(state: State, _: Reason | None) -> None:
    """There is a newer table, and the pick waits for its endpoint."""
    _judge_again(state, last=False)


def endpoint_rang(state: State, _: Reason | None) -> None:
    """The wait for the endpoint is over."""
    _judge_again(state, last=True)


def _judge_again(state: State, *, last: bool) -> None:
    if not _judge(state, last=last):
        return
    if state.phase is ExchangePhase.WAITING_WITHOUT_PICKER:
        _release_without_picker(state)
    else:
        _progress(state)


def _judge(state: State, *, last: bool) -> bool:
    """Judge the pick by the newest table. Returns whether it has usable endpoints. If not, the pick waits
    for a newer table, or the failure mode has decided. `last`: do not wait for a newer table."""
    assert state.pick is not None
    assert state.headers is not None
    verdict = judge(state.pick, state.snapshot, state.headers.subset)
    wait = state.settings.endpoint_wait
    if verdict.may_change and not last and wait > 0:
        _wait_for_endpoint(state, max(wait, ACKNOWLEDGEMENT_WAIT) if verdict.keys else wait)
        return False
    state.disarm(Timer.ENDPOINT)
    if state.phase is ExchangePhase.WAITING_FOR_ENDPOINT:
        state.phase = ExchangePhase.PICKING
        state.arm_pick()
    if verdict.problem is not None:
        if verdict.may_change:
            state.result.hint = "endpoint-wait"
        drop_picker(state, verdict.problem)
        return False
    state.keys = verdict.keys
    if state.destinations is not None:
        state.keys = verdict.keys[: state.destinations]
    return True


def _wait_for_endpoint(state: State, seconds: float) -> None:
    state.disarm(Timer.PICK)
    if not state.armed[Timer.ENDPOINT] or seconds > state.endpoint_wait:
        state.endpoint_wait = seconds
        state.arm(Timer.ENDPOINT, seconds)
    if state.phase is ExchangePhase.PICKING:
        state.phase = ExchangePhase.WAITING_FOR_ENDPOINT


# --- its release ---


def _steered(state: State) -> bytes:
    """The picker's header answer with the judged pick in it."""
    assert state.header_reply is not None
    assert state.headers is not None
    state.decide(_STEERED, state.keys)
    return state.header_reply.steered(state.keys, state.headers.stripped)


def _release(state: State) -> None:
    """Release the picker's answer to Envoy."""
    if state.upgrade:
        _release_upgrade(state)
        return
    state.phase = ExchangePhase.RELAYING
    state.disarm(Timer.END)
    state.request.answer_headers(state.marked(_steered(state)))
    state.arm_pick()
    _under_way(state)
    if state.request.complete and not state.settings.response_shown:
        state.out.add(FinishPicker())
        pass_both(state)


def _release_upgrade(state: State) -> None:
    """After an upgrade there is no HTTP: pass both directions through, and close the picker's stream."""
    if state.request.lost:
        drop_picker(state, Reason.BODY_NOT_RETAINED)
        return
    state.out.add(FinishPicker())
    pass_both(state, _steered(state))


def _release_without_picker(state: State) -> None:
    """Release the answer of a picker that has ended its stream. Parts without an answer are unchanged."""
    if not state.request.staged_whole:
        if state.request.lost:
            without_picker(state, Reason.PICKER_CLOSED)
            return
        state.request.discard_staged()
    pass_both(state, state.marked(_steered(state)))
