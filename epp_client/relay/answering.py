"""Answers from the picker to the client: refusals before the pick, evictions after it. Pure."""

from epp_client.errors import PickerViolation, Reason
from epp_client.ext_proc.messages import Reply
from epp_client.picker.immediate import immediate_response, streamed_immediate_response
from epp_client.pool.settings import EvictionMode
from epp_client.relay.actions import FailEnvoy, FinishEnvoy, FinishPicker, ToEnvoy
from epp_client.relay.outcome import Eviction, Outcome
from epp_client.relay.phases import ExchangePhase
from epp_client.relay.state import State
from epp_client.relay.without_picker import without_picker


def refused_by_picker(state: State, reply: Reply) -> None:
    """An ImmediateResponse before the pick. A refusal is an answer, also under FailOpen."""
    _answer_whole(state, reply, Outcome.REFUSED_BY_PICKER)


def evicted(state: State, reply: Reply) -> None:
    """An ImmediateResponse after the pick: the picker gives up a request that it has steered."""
    response = state.response
    if response.complete:
        # The client has got the whole response.
        return
    if not (response.headers_sent or (response.begun and response.passing)):
        _answer_whole(state, reply, Outcome.EVICTED)
        state.result.eviction = Eviction.ANSWERED
    elif state.pool.settings.eviction is EvictionMode.RESET:
        # The response has begun, so only a reset can tell the client.
        state.result.outcome, state.result.eviction = Outcome.EVICTED, Eviction.RESET
        state.out.add(FinishPicker())
        state.out.add(FailEnvoy())
        state.close()
    else:
        state.result.eviction = Eviction.FINISHED
        state.out.add(FinishPicker())
        without_picker(state, Reason.PICKER_CLOSED, clean=True)


def _answer_whole(state: State, reply: Reply, outcome: Outcome) -> None:
    raw = immediate_response(reply.raw, state.result.left_out)
    state.result.outcome = outcome
    state.out.add(ToEnvoy(raw))
    state.out.add(FinishPicker())
    state.out.add(FinishEnvoy())
    state.close()


def answer_begun(state: State, reply: Reply) -> None:
    """A StreamedImmediateResponse begins before the pick. Envoy accepts it instead of the header answer."""
    raw, is_final = streamed_immediate_response(reply.raw, state.result.left_out, first=True)
    state.phase = ExchangePhase.ANSWERING
    state.result.outcome = Outcome.REFUSED_BY_PICKER
    state.forget()
    _release(state, raw, is_final)


def answer_continued(state: State, reply: Reply) -> None:
    """A further message of a StreamedImmediateResponse."""
    raw, is_final = streamed_immediate_response(reply.raw, state.result.left_out, first=False)
    _release(state, raw, is_final)


def _release(state: State, raw: bytes, is_final: bool) -> None:
    state.out.add(ToEnvoy(raw))
    if is_final:
        state.out.add(FinishPicker())
        state.out.add(FinishEnvoy())
        state.close()


def answer_too_late(_: State, __: Reply) -> None:
    """Raises: PickerViolation: Envoy does not accept a StreamedImmediateResponse at this point."""
    raise PickerViolation("a StreamedImmediateResponse came after the header answer")
