"""Continues an exchange without the picker: before the pick is released as the pool's failure mode says,
after it with the originals. Pure."""

from epp_client.errors import EnvoyViolation, EppClientError, Reason
from epp_client.ext_proc.replies import fallback_mark
from epp_client.picker.steering import destination_reply
from epp_client.pool.inference_pool import FailureMode
from epp_client.relay.actions import CancelPicker, Timer
from epp_client.relay.ending import answer_dropped, refuse
from epp_client.relay.growth import Overgrown
from epp_client.relay.lane import NotRetained
from epp_client.relay.outcome import Outcome
from epp_client.relay.phases import ExchangePhase
from epp_client.relay.state import State


def blame(state: State, error: EppClientError) -> None:
    """Handle a violation: refuse the request if Envoy caused it, drop the picker if the picker did."""
    if isinstance(error, EnvoyViolation):
        if state.picker_open:
            state.out.add(CancelPicker())
        refuse(state, Reason.ENVOY_PROTOCOL)
    elif isinstance(error, NotRetained):
        drop_picker(state, Reason.BODY_NOT_RETAINED)
    elif isinstance(error, Overgrown):
        state.result.hint = error.hint
        drop_picker(state, error.reason)
    else:
        drop_picker(state, Reason.PICKER_PROTOCOL)


def drop_picker(state: State, reason: Reason) -> None:
    """End the picker's stream, if it is open, and continue without the picker."""
    if state.phase is ExchangePhase.ANSWERING:
        answer_dropped(state, reason)
        return
    if state.picker_open:
        state.out.add(CancelPicker())
    without_picker(state, reason)


def without_picker(state: State, reason: Reason, *, clean: bool = False) -> None:
    """The picker's stream has ended; `clean`: with OK. Before the pick is released the failure mode
    decides. After it the rest is passed through unchanged.
    """
    request, response = state.request, state.response
    if not request.headers_sent:
        state.fail(reason)
        state.growth.forget()
        if state.pool.failure_mode is FailureMode.FAIL_CLOSE:
            refuse(state, reason)
        elif request.lost:
            refuse(state, Reason.BODY_NOT_RETAINED)
        else:
            go_local(state, Outcome.FAILED_OPEN, reason)
        return
    if not request.can_take_over and (request.lost or not response.begun):
        # Also if the response has begun: the model server would take an incomplete body for the client's.
        refuse(state, Reason.BODY_NOT_RETAINED if request.lost else reason)
        return
    if not (clean or response.complete or response.passing):
        state.result.passthrough = reason
    pass_both(state)


def pass_both(state: State, headers: bytes | None = None) -> None:
    """From now on answer everything in both directions unchanged, without timers. `headers` is the header
    answer of the request, used if none was released."""
    state.phase = ExchangePhase.PASSING
    state.disarm_all()
    state.request.take_over(headers)
    state.response.take_over()


def go_local(state: State, outcome: Outcome, reason: Reason | None) -> None:
    """Send the original request to a local pick, as soon as it has ended."""
    assert state.headers is not None
    state.request.discard_staged()
    if state.waits_for_end():
        state.phase, state.local = ExchangePhase.WAITING_FOR_END, (outcome, reason)
        state.disarm(Timer.PICK)
        state.disarm(Timer.ENDPOINT)
        return
    # A pick that was judged valid is used, even if the rest of the picker's answer is missing.
    keys = state.keys or state.local_pick(state.snapshot, state.headers.subset)
    keys = keys[: state.destinations]
    if not keys:
        refuse(state, Reason.NO_READY_ENDPOINT)
        return
    state.decide(outcome, keys)
    state.result.reason = reason
    if reason is not None:
        state.response.pass_with(fallback_mark(reason))
    steered = destination_reply(keys, state.headers.stripped, state.result.misread)
    pass_both(state, state.marked(steered))


def end_came(state: State, _: Reason | None = None) -> None:
    """The request of a local pick has ended, or must not wait for its end any longer."""
    assert state.local is not None
    state.end_awaited = True
    go_local(state, *state.local)
