"""Going on without the picker: the pool's failure mode before the pick is released, the originals after
it. Pure."""

from epp_client.errors import EppClientError, Reason
from epp_client.ext_proc.replies import fallback_mark
from epp_client.picker.steering import destination_reply
from epp_client.pool.inference_pool import FailureMode
from epp_client.relay.actions import CancelPicker, Disarm, FailEnvoy, Timer
from epp_client.relay.lane import NotRetained
from epp_client.relay.outcome import Outcome
from epp_client.relay.state import State


def cut_off(state: State) -> None:
    """The picker's answer in the model server's place has begun, and will not be whole."""
    if state.picker_open:
        state.out.append(CancelPicker())
    state.out.append(FailEnvoy())
    state.close()


def drop_picker(state: State, reason: Reason) -> None:
    """The picker is of no use any more: end its stream and go on without it."""
    if state.answering:
        cut_off(state)
        return
    if state.picker_open:
        state.picker_open = False
        state.out.append(CancelPicker())
    without_picker(state, reason)


def without_picker(state: State, reason: Reason, *, clean: bool = False) -> None:
    """The failure mode decides before the commitment; after it, the rest goes on unchanged."""
    state.disarm_pick()
    state.out.append(Disarm(Timer.ENDPOINT))
    state.waiting_for_endpoint = False
    if not state.request.headers_sent:
        state.failure = reason
        state.forget_growth()
        if state.pool.failure_mode is FailureMode.FAIL_CLOSE:
            state.refuse(reason)
        elif state.request.lost:
            state.refuse(Reason.BODY_NOT_RETAINED)
        else:
            go_local(state, Outcome.FAILED_OPEN, reason)
        return
    lost = state.request.lost
    if not state.request.can_take_over and (lost or not state.response.begun):
        # Even if the response has begun: the upstream would take a body with a hole for the client's.
        state.refuse(Reason.BODY_NOT_RETAINED if lost else reason)
        return
    if not (clean or state.response.complete or state.response.passing):
        state.passthrough = reason
    state.send(state.request.take_over())
    state.send(state.response.take_over())


def go_local(state: State, outcome: Outcome, reason: Reason | None) -> None:
    """Send the original request to an endpoint of our own choice."""
    assert state.headers is not None
    state.request.discard_staged()
    # A pick that was judged good stands, though the rest of the picker's answer is missing.
    keys = state.keys or state.local_pick(state.snapshot, state.headers.subset)
    keys = keys[: state.destinations]
    if not keys:
        state.refuse(Reason.NO_READY_ENDPOINT)
        return
    state.outcome, state.reason = outcome, reason
    state.keys, state.endpoint = keys, keys[0]
    if reason is not None:
        state.response.pass_with(fallback_mark(reason))
    steered = destination_reply(keys, state.headers.stripped, state.misread)
    state.send(state.request.take_over(state.marked(steered)))
    state.send(state.response.take_over())


def distrust(state: State, error: EppClientError) -> None:
    """An answer of the picker could not be released to Envoy."""
    lost = isinstance(error, NotRetained)
    drop_picker(state, Reason.BODY_NOT_RETAINED if lost else Reason.PICKER_PROTOCOL)
