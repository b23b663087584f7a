"""How an exchange ends: refused, cut off, or because Envoy has closed its stream. Pure."""

from epp_client.errors import Reason
from epp_client.ext_proc.identity import identify
from epp_client.ext_proc.replies import refusal
from epp_client.relay.actions import CancelPicker, FailEnvoy, FinishEnvoy, FinishPicker, ToEnvoy
from epp_client.relay.outcome import Outcome
from epp_client.relay.state import State


def refuse(state: State, reason: Reason) -> None:
    """Answer the client with an error, or cut off a response that has begun, and end both streams."""
    result = state.result
    result.outcome, result.reason, result.endpoint = Outcome.REFUSED, reason, None
    if state.response.headers_sent:
        state.out.add(FailEnvoy())
    else:
        identity = identify(state.request.headers)
        answer = refusal(
            reason,
            str(state.pool.name),
            grpc=identity.grpc,
            request_id=identity.request_id,
            picker_said=result.misread,
        )
        state.out.add(ToEnvoy(answer))
        state.out.add(FinishEnvoy())
    state.close()


def answer_broke_off(state: State, _: Reason | None) -> None:
    """The picker's stream ended in the middle of its answer to the client, so the answer is incomplete."""
    state.out.add(FailEnvoy())
    state.close()


def answer_dropped(state: State, reason: Reason | None) -> None:
    """The picker is dropped in the middle of its answer to the client."""
    state.out.add(CancelPicker())
    answer_broke_off(state, reason)


def envoy_closed(state: State, _: Reason | None) -> None:
    """Envoy has half-closed or reset its stream: it sends nothing more, and reads nothing."""
    if state.result.outcome is None:
        state.result.outcome = Outcome.CANCELLED
    if state.picker_open:
        state.out.add(FinishPicker() if state.response.complete else CancelPicker())
    state.out.add(FinishEnvoy())
    state.close()
