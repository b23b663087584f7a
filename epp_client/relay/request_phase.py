"""The request phase: from the first message to the pick that is judged and released. Pure.

It holds everything back until the pick is judged. Once the request has ended, the picker's whole answer
is awaited (its burst of body chunks included), so that a picker dying half-way leaves the original body
to be replayed. A request that is still being sent streams through.
"""

from typing import Final

from epp_client.errors import EnvoyViolation, Reason
from epp_client.ext_proc.messages import Answer, Message, Phase, Reply, read_reply
from epp_client.ext_proc.replies import END_OF_REQUEST_BODY
from epp_client.picker.pick import judge
from epp_client.picker.preparation import is_upgrade, prepare_request_headers, without_body
from epp_client.picker.steering import HeaderReply, body_reply, trailers_reply
from epp_client.pool.settings import ResponseMode
from epp_client.relay.actions import Arm, Disarm, FinishPicker, OpenPicker, Timer, ToPicker
from epp_client.relay.outcome import Outcome
from epp_client.relay.response_phase import owed_trailers, response_progress
from epp_client.relay.state import QUARTERS, State
from epp_client.relay.without_picker import drop_picker, go_local, without_picker

ACKNOWLEDGEMENT_WAIT: Final = 5.0
"""Seconds, if `endpoint_wait` is not longer, for Envoy to have an endpoint that our table has. It is on its
way there, but a busy Envoy takes its time, and would answer 503 before it has it."""
MAX_ATTEMPTS: Final = 3
"""Streams that one request may open: a rolling restart of the picker costs it one more, or two."""


def request_headers(state: State, message: Message) -> None:
    """Envoy has begun."""
    if state.headers is not None or state.response.begun:
        raise EnvoyViolation("request headers came twice, or behind the response's")
    state.envoy_headers = message.raw
    state.headers = headers = prepare_request_headers(message.raw, state.snapshot)
    state.request.put(message)
    if is_upgrade(message):
        state.upgrade = True
        headers.raw = without_body(headers.raw)
    if headers.subset is not None and not headers.subset.ready:
        state.refuse(Reason.SUBSET_EMPTY)
        return
    target = state.snapshot.picker
    if target is None:
        go_local(state, Outcome.LOCAL_PICK, None)
    elif not target.addresses:
        without_picker(state, Reason.PICKER_UNRESOLVED)
    else:
        ask_picker(state)
        state.arm_pick()


def may_retry(state: State) -> bool:
    """Whether the picker may be asked anew: nothing of its answer has been released, nothing is lost."""
    return (
        state.outcome is None
        and state.attempts < MAX_ATTEMPTS
        and not state.request.headers_sent
        and not state.request.lost
    )


def ask_picker(state: State) -> None:
    """Open a stream to the picker, with all that Envoy has sent so far."""
    assert state.headers is not None
    state.picker_open, state.stalled = True, False
    state.attempts += 1
    state.forget_growth()
    state.header_reply, state.pick, state.keys = None, None, ()
    state.out += (OpenPicker(), ToPicker(state.headers.raw))
    for raw in state.request.restart():
        if not state.upgrade:
            state.out.append(ToPicker(raw))
    if state.envoy_trailers:
        state.out.append(ToPicker(state.envoy_trailers))
    if state.waiting_for_endpoint:
        state.waiting_for_endpoint = False
        state.out.append(Disarm(Timer.ENDPOINT))
        state.arm_pick()
    elif state.attempts > 1 and not state.request.ended:
        state.request_watched = False  # the one that died had been silent, or had stalled
        state.arm_pick()


def request_rest(state: State, message: Message) -> None:
    """Envoy has sent more of the body, or trailers."""
    if state.request.ended:
        raise EnvoyViolation("the request went on after its end")
    state.send(state.request.put(message))
    state.request_quiet = 0
    if message.phase is Phase.REQUEST_TRAILERS:
        state.envoy_trailers = message.raw
    if not state.picker_open or state.upgrade or state.request.answered_whole:
        return
    if message.phase is Phase.REQUEST_TRAILERS:
        # GAIE's picker picks at the end of the body and never looks at trailers.
        if not state.request.passing:
            state.request.expect_end_answer()
        state.out.append(ToPicker(END_OF_REQUEST_BODY))
    state.out.append(ToPicker(message.raw))
    state.arm_pick()
    if state.request.headers_sent:
        request_progress(state)


def request_reply(state: State, reply: Reply) -> None:
    """The picker has answered a part of the request."""
    lane = state.request
    state.request_quiet = 0
    if reply.answer is Answer.REQUEST_HEADERS:
        if state.header_reply is not None or lane.headers_sent:
            return  # a second header answer is one too many, and changes nothing
        state.header_reply = said = HeaderReply(
            reply.raw, state.envoy_headers, state.left_out, headers_only=lane.headers_only
        )
        lane.hold(reply.raw)
        state.pick = said.pick or state.pick
        if said.replacement is not None:
            state.send(lane.answer_whole(said.replacement.payload))
    elif reply.answer is Answer.REQUEST_BODY:
        if reply.has_more:
            pick, raw = body_reply(reply.raw)
            state.pick = state.pick or pick
            reply = read_reply(raw)
        state.send(lane.answer_body(reply))
    else:
        state.trailers_answered = True
        answer = trailers_reply(reply.raw, state.envoy_trailers, state.left_out)
        state.send(lane.answer_trailers(answer))
    request_progress(state)


def request_progress(state: State) -> None:
    """Do what has become possible in the request phase."""
    lane = state.request
    if lane.headers_sent:
        _under_way(state)
        return
    full = lane.staged_full
    if state.header_reply is None or state.pick is None:
        if full:
            drop_picker(state, full)
        elif state.header_reply is not None and lane.staged_whole:
            # The pick may still come with a body answer, but not once the body is whole.
            drop_picker(state, Reason.PICK_MISSING)
        return
    if not state.keys:
        # A body that cannot be held back any longer does not wait for the table.
        if state.waiting_for_endpoint and not full:
            return
        if not judge_pick(state, last=full is not None):
            return
    if not lane.ended or lane.staged_whole or full:
        _commit(state)


def _under_way(state: State) -> None:
    """The picker's header answer has been released: what is left is the rest of its answer."""
    lane = state.request
    if lane.complete:
        state.disarm_pick()
        if state.trailers_armed:
            state.trailers_armed = False
            state.out.append(Disarm(Timer.TRAILERS))
        response_progress(state)
    elif lane.waits_for_trailers_only and state.picker_open:
        state.disarm_pick()
        owed_trailers(state, lane)


def pick_rang(state: State) -> None:
    """The pick is overdue, or a request that is being sent has been silent for a while."""
    if state.request_watched:
        state.request_watched = False
        if not state.request.owes:
            return  # the picker's part is done so far: the next message starts the deadline anew
        quiet = state.request_quiet + 1
        if quiet <= QUARTERS:
            state.arm_pick()
            state.request_quiet = quiet
            return
    state.hint = "pick-timeout"
    drop_picker(state, Reason.PICKER_TIMEOUT)


def judge_pick(state: State, *, last: bool) -> bool:
    """Judge the pick by the newest table; whether its endpoints are good. Else a newer table is waited for,
    or the failure mode has decided. `last`: there will be no newer one that could be waited for."""
    assert state.pick is not None
    assert state.headers is not None
    verdict = judge(state.pick, state.snapshot, state.headers.subset)
    wait = state.settings.endpoint_wait
    if verdict.may_change and not last and wait > 0:
        if verdict.keys:
            wait = max(wait, ACKNOWLEDGEMENT_WAIT)
        if not state.waiting_for_endpoint:
            state.disarm_pick()
        if not state.waiting_for_endpoint or wait > state.endpoint_wait:
            state.waiting_for_endpoint, state.endpoint_wait = True, wait
            state.out.append(Arm(Timer.ENDPOINT, wait))
        return False
    if state.waiting_for_endpoint or last:
        state.waiting_for_endpoint = False
        state.out.append(Disarm(Timer.ENDPOINT))
        state.arm_pick()
    if verdict.problem is not None:
        if verdict.may_change:
            state.hint = "endpoint-wait"
        drop_picker(state, verdict.problem)
        return False
    state.keys = verdict.keys[: state.destinations]
    return True


def judge_again(state: State, *, last: bool) -> None:
    """There is a newer table, or the wait for it is over."""
    if not judge_pick(state, last=last):
        return
    if state.picker_open:
        request_progress(state)
    else:
        closed_after_pick(state)


def _commit(state: State) -> None:
    """Release the picker's answer to Envoy: from here on the request is under way."""
    if state.upgrade:
        _release_upgrade(state)
        return
    state.send(state.request.answer_headers(state.marked(_steered(state))))
    state.arm_pick()
    _under_way(state)
    _skip_response(state)


def _release_upgrade(state: State) -> None:
    """What follows is no HTTP: both directions pass, and the picker has done what there was to do."""
    if state.request.lost:
        drop_picker(state, Reason.BODY_NOT_RETAINED)
        return
    state.send(state.request.take_over(_steered(state)))
    state.send(state.response.take_over())
    state.disarm_pick()
    if state.picker_open:
        state.picker_open = False
        state.out.append(FinishPicker())


def _steered(state: State) -> bytes:
    """The picker's header answer with the judged pick in it."""
    assert state.header_reply is not None
    assert state.headers is not None
    state.outcome = Outcome.STEERED
    state.endpoint = state.keys[0]
    return state.header_reply.steered(state.keys, state.headers.stripped)


def _skip_response(state: State) -> None:
    if (
        state.settings.response_mode is ResponseMode.SKIP
        and state.request.complete
        and state.picker_open
    ):
        state.picker_open = False
        state.out.append(FinishPicker())


def closed_after_pick(state: State) -> None:
    """A clean close after a pick: the picker wants nothing more of the request or response."""
    if state.request.headers_sent:
        without_picker(state, Reason.PICKER_CLOSED, clean=True)
        return
    if state.waiting_for_endpoint or not (state.keys or judge_pick(state, last=False)):
        return
    if not state.request.staged_whole:
        if state.request.lost:
            without_picker(state, Reason.PICKER_CLOSED)
            return
        state.request.discard_staged()
    state.disarm_pick()
    state.send(state.request.take_over(state.marked(_steered(state))))
    state.send(state.response.take_over())
