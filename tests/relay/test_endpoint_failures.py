"""What Envoy tells of the endpoints that it was given: who took no connection, whether anybody answered."""

import pytest

from epp_client.errors import ENDPOINT_REASONS, Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from epp_client.picker.protocol import LB_NAMESPACE, SERVED
from epp_client.pool.settings import ResponseMode
from epp_client.relay.outcome import Outcome

from .conversation import A, B, C, Envoy, conversation, picked, request_headers, snapshot
from .conversation import response_headers as plain_response_headers

LIST = ",".join((A, B, C))


def response_headers(served: str, error: str = "") -> bytes:
    headers = {"x_inference_error": error} if error else {}
    message = ProcessingRequest.FromString(plain_response_headers(end=True, **headers))
    if served:
        lb = message.metadata_context.filter_metadata[LB_NAMESPACE]
        lb.fields[SERVED].string_value = served
    return message.SerializeToString()


def steered(mode: ResponseMode = ResponseMode.RELAY) -> Envoy:
    envoy = conversation(snapshot(response_mode=mode))
    envoy.send(request_headers(end=True))
    envoy.picker(picked(LIST))
    assert envoy.exchange.result.outcome is Outcome.STEERED
    return envoy


@pytest.mark.parametrize(
    ("served", "error", "passed_over"),
    [
        (A, "", ()),
        (B, "", (A,)),
        (C, "", (A, B)),
        ("192.0.2.1:1", "", ()),
        (C, "endpoint_unreachable", (A, B, C)),
        # A break-off of the second: only the first took no connection.
        (B, "endpoint_broke_off", (A,)),
        (A, "endpoint_timeout", ()),
        # Envoy knows none of them, and so tried none.
        ("", "endpoint_unreachable", (A,)),
    ],
)
@pytest.mark.parametrize("mode", ResponseMode)
def test_the_served_endpoint_tells_who_took_no_connection(
    mode: ResponseMode, served: str, error: str, passed_over: tuple[str, ...]
) -> None:
    envoy = steered(mode)
    envoy.send(response_headers(served, error))
    exchange = envoy.exchange
    assert exchange.result.passed_over == passed_over
    assert exchange.result.endpoint_failure == (error or None)
    assert exchange.result.outcome is Outcome.STEERED
    assert exchange.result.reason is None


@pytest.mark.parametrize(
    "reason", [*sorted(set(Reason) - set(ENDPOINT_REASONS)), "nonsense", "\xff"]
)
def test_another_sidecar_s_refusal_is_no_word_about_our_endpoint(reason: str) -> None:
    """A model server may itself be behind a gateway of this kind."""
    envoy = steered()
    envoy.send(response_headers(A, reason))
    assert envoy.exchange.result.endpoint_failure is None


def test_a_local_pick_is_told_as_well() -> None:
    envoy = conversation(snapshot(picker=False))
    envoy.exchange.state.local_pick = lambda now, subset: (C, A, B)
    envoy.send(request_headers(end=True))
    envoy.send(response_headers(B))
    assert envoy.exchange.result.passed_over == (C, A)
    assert envoy.exchange.result.outcome is Outcome.LOCAL_PICK


def test_an_answer_before_the_pick_is_about_no_endpoint() -> None:
    envoy = conversation()
    envoy.send(request_headers())
    envoy.send(response_headers("", "endpoint_unreachable"))
    assert (envoy.exchange.result.passed_over, envoy.exchange.result.endpoint_failure) == ((), None)
    assert envoy.exchange.result.outcome is Outcome.LOCAL_REPLY
