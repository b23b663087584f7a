"""The Exchange, dialect by dialect and failure by failure, as tables."""

from dataclasses import replace
from typing import Any

import pytest

from epp_client.errors import Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from epp_client.ext_proc.replies import FALLBACK
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE, SERVED, SUBSET, SUBSET_NAMESPACE
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.settings import ResponseMode
from epp_client.relay.actions import (
    Arm,
    CancelPicker,
    Disarm,
    FailEnvoy,
    FinishPicker,
    Timer,
    ToEnvoy,
)
from epp_client.relay.exchange import MAX_PLAIN_ANSWER
from epp_client.relay.outcome import Eviction, Outcome
from epp_client.relay.request_phase import ACKNOWLEDGEMENT_WAIT

from .conversation import (
    OUTSIDE,
    A,
    B,
    C,
    Envoy,
    answered,
    body,
    conversation,
    immediate,
    picked,
    request_headers,
    response_headers,
    snapshot,
    streamed,
    table,
    trailers,
    unchanged,
)

OPEN, CLOSE = FailureMode.FAIL_OPEN, FailureMode.FAIL_CLOSE
POST = (request_headers(), body(b"hello "), body(b"world"), body(b"", end=True))

DIALECTS = {
    "pick after the body": [picked(B), streamed(b"hello world", end=True)],
    "pick with the headers": [picked(B), streamed(b"hello "), streamed(b"world", end=True)],
    "body before headers": [streamed(b"hello world", end=True), picked(B)],
    "common response": [unchanged(), unchanged(), unchanged(), picked(B)],
    "common response after headers": [picked(B), unchanged(), unchanged(), unchanged()],
    "tiny chunks": [
        picked(B),
        *(streamed(bytes([c])) for c in b"hello world"),
        streamed(b"", True),
    ],
    "header only": [picked(B, metadata=False), streamed(b"hello world", end=True)],
}


@pytest.mark.parametrize("mode", [OPEN, CLOSE])
@pytest.mark.parametrize("replies", DIALECTS.values(), ids=DIALECTS.keys())
def test_every_dialect_steers_with_the_body_whole(replies: list[bytes], mode: FailureMode) -> None:
    envoy = conversation(snapshot(mode))
    envoy.send(*POST)
    envoy.picker(*replies)
    assert envoy.destination == B
    assert envoy.request.body == b"hello world"
    assert envoy.request.ended
    assert envoy.exchange.result.outcome is Outcome.STEERED
    assert envoy.exchange.retained == 0


def test_a_rewritten_body_goes_on_as_the_picker_wrote_it() -> None:
    envoy = conversation()
    envoy.send(*POST)
    envoy.picker(picked(B), streamed(b"bon"), streamed(b"jour"), streamed(b"", end=True))
    assert envoy.request.body == b"bonjour"
    assert envoy.request.ended


def test_a_request_without_a_body_needs_one_answer() -> None:
    envoy = conversation()
    envoy.send(request_headers(end=True))
    envoy.picker(picked(C))
    assert envoy.destination == C
    assert envoy.request.ended


def test_a_request_still_being_sent_streams_through() -> None:
    envoy = conversation()
    envoy.send(request_headers())
    envoy.picker(picked(B))
    envoy.ring(Timer.END)
    envoy.send(body(b"one"))
    envoy.picker(streamed(b"one"))
    assert envoy.request.body == b"one"
    assert not envoy.request.ended


FAILURES = {
    "silent": ([], "timeout", Reason.PICKER_TIMEOUT),
    "closed before the pick": ([], None, Reason.PICKER_CLOSED),
    "error": ([], Reason.PICKER_ERROR, Reason.PICKER_ERROR),
    "outside": ([picked(OUTSIDE), streamed(b"x", True)], "endpoint", Reason.PICK_OUTSIDE_POOL),
    "hostname": ([picked("pod-a:8000")], "", Reason.PICK_MALFORMED),
    "no port": ([picked("10.0.0.1")], "", Reason.PICK_MALFORMED),
    "unicode": ([picked("１０.0.0.1:8000")], "", Reason.PICK_MALFORMED),
    "ten thousand": ([picked(",".join([A] * 10_000))], "", Reason.PICK_MALFORMED),
    "empty": ([picked(""), streamed(b"hello world", True)], "", Reason.PICK_MISSING),
    "none": ([picked(None), streamed(b"hello world", True)], "", Reason.PICK_MISSING),
    "disagreeing": ([picked(A, header=B)], "", Reason.PICK_DISAGREES),
    "garbage": ([b"\xff\xff\xff"], "", Reason.PICKER_PROTOCOL),
    "wrong order": ([answered("response_headers")], "", Reason.PICKER_PROTOCOL),
    "half a rewritten body": (
        [picked(B), streamed(b"bonj")],
        Reason.PICKER_ERROR,
        Reason.PICKER_ERROR,
    ),
}


def fail(envoy: Envoy, replies: list[bytes], how: object) -> None:
    envoy.send(*POST)
    envoy.picker(*replies)
    if how == "timeout":
        envoy.do(envoy.exchange.timer_rang(Timer.PICK))
    elif how == "endpoint":
        envoy.do(envoy.exchange.timer_rang(Timer.ENDPOINT))
    elif how != "":
        assert how is None or isinstance(how, Reason)
        envoy.do(envoy.exchange.picker_closed(how))


@pytest.mark.parametrize(("replies", "how", "reason"), FAILURES.values(), ids=FAILURES.keys())
def test_fail_open_replays_the_body(replies: list[bytes], how: object, reason: Reason) -> None:
    envoy = conversation(snapshot(OPEN))
    fail(envoy, replies, how)
    assert envoy.exchange.result.outcome is Outcome.FAILED_OPEN
    assert envoy.exchange.result.reason is reason
    assert envoy.destination in (A, B)
    assert envoy.request.body == b"hello world"
    assert envoy.request.ended
    envoy.send(response_headers(), body(b"answer", end=True, response=True))
    assert envoy.response.body == b"answer"
    assert envoy.response.ended
    assert fallback(envoy) == str(reason)


def fallback(envoy: Envoy) -> str:
    """What the client is told of why no picker chose; empty when one did."""
    assert envoy.response.headers is not None
    mutation = envoy.response.headers.response_headers.response.header_mutation
    return "".join(
        option.header.raw_value.decode()
        for option in mutation.set_headers
        if option.header.key == FALLBACK
    )


@pytest.mark.parametrize("picker", [True, False])
def test_a_request_that_is_served_as_its_pool_wants_has_no_word_of_a_fallback(picker: bool) -> None:
    envoy = conversation(snapshot(OPEN, picker=picker))
    envoy.send(request_headers(end=True))
    if picker:
        envoy.picker(picked(A))
        envoy.do(envoy.exchange.picker_closed(None))
    envoy.send(response_headers(end=True))
    assert fallback(envoy) == ""


@pytest.mark.parametrize(("replies", "how", "reason"), FAILURES.values(), ids=FAILURES.keys())
def test_fail_close_refuses_with_the_reason(
    replies: list[bytes], how: object, reason: Reason
) -> None:
    envoy = conversation(snapshot(CLOSE))
    fail(envoy, replies, how)
    assert envoy.error == reason
    assert envoy.refusal is not None
    assert envoy.refusal.immediate_response.status.code == 503
    assert envoy.finished
    assert envoy.exchange.retained == 0


@pytest.mark.parametrize("mode", [OPEN, CLOSE])
@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_of_the_picker_is_an_answer(status: int, mode: FailureMode) -> None:
    envoy = conversation(snapshot(mode))
    envoy.send(*POST)
    envoy.picker(immediate(status))
    assert envoy.refusal is not None
    assert envoy.refusal.immediate_response.status.code == status
    assert envoy.exchange.result.outcome is Outcome.REFUSED_BY_PICKER


def test_only_members_stay_in_an_ordered_list() -> None:
    envoy = conversation()
    envoy.send(request_headers(end=True))
    envoy.picker(picked(f"{OUTSIDE}, {C},nonsense,{A},{C}"))
    assert envoy.destination == f"{C},{A}"
    assert envoy.request.headers is not None
    options = envoy.request.headers.request_headers.response.header_mutation.set_headers
    assert [o.header.raw_value for o in options] == [f"{C},{A}".encode()]


def test_all_other_mutations_of_the_picker_are_kept() -> None:
    envoy = conversation()
    envoy.send(request_headers(end=True))
    envoy.picker(picked(f"{OUTSIDE},{A}", x_model="small"))
    assert envoy.request.headers is not None
    options = envoy.request.headers.request_headers.response.header_mutation.set_headers
    assert ("x-model", b"small") in [(o.header.key, o.header.raw_value) for o in options]


def test_client_supplied_destination_headers_reach_neither_picker_nor_upstream() -> None:
    envoy = conversation()
    spoofed = {
        "x-gateway-destination-endpoint": OUTSIDE,
        "X-Gateway-Destination-Endpoint-Served": A,
    }
    envoy.send(request_headers(end=True, **spoofed))
    assert not envoy.to_picker[0].request_headers.headers.headers
    envoy.picker(picked(B))
    assert envoy.request.headers is not None
    mutation = envoy.request.headers.request_headers.response.header_mutation
    assert sorted(mutation.remove_headers) == sorted(spoofed)
    assert [o.header.raw_value for o in mutation.set_headers] == [B.encode()]


def with_subset(*entries: str, as_text: bool = False) -> bytes:
    message = ProcessingRequest.FromString(request_headers(end=True))
    hint = message.metadata_context.filter_metadata[SUBSET_NAMESPACE].fields[SUBSET]
    if as_text:
        hint.string_value = ",".join(entries)
    else:
        for entry in entries:
            hint.list_value.values.add().string_value = entry
    return message.SerializeToString()


@pytest.mark.parametrize("as_text", [True, False])
def test_the_subset_hint_is_narrowed_to_ready_members(as_text: bool) -> None:
    pool = snapshot(members=table(A, B, draining=(C,)))
    envoy = conversation(pool)
    envoy.send(with_subset(OUTSIDE, B, C, as_text=as_text))
    hint = envoy.to_picker[0].metadata_context.filter_metadata[SUBSET_NAMESPACE].fields[SUBSET]
    assert [value.string_value for value in hint.list_value.values] == [B]
    envoy.picker(picked(C))
    assert envoy.destination == C, "a draining endpoint is still a valid pick"


def test_a_pick_outside_the_subset_is_refused() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(with_subset(A))
    envoy.picker(picked(B))
    assert envoy.error == Reason.PICK_OUTSIDE_SUBSET


def test_fail_open_stays_inside_the_subset() -> None:
    envoy = conversation(snapshot(OPEN))
    envoy.send(with_subset(C))
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_ERROR))
    assert envoy.destination == C


def test_an_empty_subset_is_refused_without_asking_the_picker() -> None:
    envoy = conversation(snapshot(OPEN))
    envoy.send(with_subset(OUTSIDE))
    assert envoy.error == Reason.SUBSET_EMPTY
    assert envoy.opened == 0


def test_a_pool_without_a_picker_is_served_by_the_local_pick() -> None:
    envoy = conversation(snapshot(picker=False))
    envoy.send(*POST)
    assert envoy.destination == A
    assert envoy.request.body == b"hello world"
    assert envoy.exchange.result.outcome is Outcome.LOCAL_PICK


def test_no_ready_endpoint_is_refused() -> None:
    envoy = conversation(snapshot(OPEN, members=table(draining=(A,))))
    envoy.send(*POST)
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_UNREACHABLE))
    assert envoy.error == Reason.NO_READY_ENDPOINT


def test_an_unresolved_picker_fails_by_the_failure_mode_at_once() -> None:
    pool = snapshot(CLOSE)
    target = type(pool.picker)(problem="no such Service") if pool.picker else None
    envoy = conversation(type(pool)(pool.pool, pool.table, target))
    envoy.send(request_headers())
    assert envoy.error == Reason.PICKER_UNRESOLVED


def test_a_pick_that_the_table_lacks_waits_for_the_table() -> None:
    late = snapshot(CLOSE, members=table(A, OUTSIDE, generation=2))
    envoy = conversation(snapshot(CLOSE))
    envoy.send(request_headers(end=True))
    envoy.picker(picked(OUTSIDE))
    armed = [(item.timer, item.seconds) for item in envoy.actions if isinstance(item, Arm)]
    assert (Timer.ENDPOINT, 0.25) in armed
    assert envoy.request.headers is None
    envoy.do(envoy.exchange.pool_changed(late))
    assert envoy.destination == OUTSIDE


def test_a_pick_that_envoy_has_not_acknowledged_waits_for_the_acknowledgement() -> None:
    members = table(A, generation=2)
    envoy = conversation(snapshot(CLOSE, members=members, acknowledged=1))
    envoy.send(request_headers(end=True))
    envoy.picker(picked(A))
    assert envoy.request.headers is None
    envoy.do(envoy.exchange.pool_changed(snapshot(CLOSE, members=members, acknowledged=2)))
    assert envoy.destination == A


def waits(envoy: Envoy) -> list[float]:
    """The seconds for which the pick was made to wait, one time after the other."""
    return [
        item.seconds
        for item in envoy.actions
        if isinstance(item, Arm) and item.timer is Timer.ENDPOINT
    ]


def test_a_pick_of_ours_waits_for_a_busy_envoy_longer_than_for_the_table() -> None:
    """The endpoint is on its way to Envoy, which would answer 503 to a request that is there first."""
    behind = snapshot(CLOSE, members=table(A, OUTSIDE, generation=2), acknowledged=1)
    envoy = conversation(snapshot(CLOSE, acknowledged=1))
    envoy.send(request_headers(end=True))
    envoy.picker(picked(OUTSIDE))
    assert waits(envoy) == [0.25]
    envoy.do(envoy.exchange.pool_changed(behind))
    assert waits(envoy) == [0.25, ACKNOWLEDGEMENT_WAIT]
    envoy.do(envoy.exchange.pool_changed(replace(behind, table=table(A, OUTSIDE, generation=3))))
    assert waits(envoy) == [0.25, ACKNOWLEDGEMENT_WAIT]
    envoy.ring(Timer.ENDPOINT)
    assert envoy.destination == OUTSIDE


def test_who_wants_no_wait_has_none() -> None:
    members = table(A, generation=2)
    envoy = conversation(snapshot(CLOSE, members=members, acknowledged=1, endpoint_wait=0.0))
    envoy.send(request_headers(end=True))
    envoy.picker(picked(A))
    assert envoy.destination == A


def test_a_body_too_large_to_keep_still_flows() -> None:
    envoy = conversation(snapshot(OPEN, max_retained_body=8))
    envoy.send(*POST)
    envoy.picker(picked(B), streamed(b"hello world", end=True))
    assert envoy.request.body == b"hello world"
    assert envoy.request.ended


def test_a_body_too_large_to_keep_cannot_be_replayed() -> None:
    envoy = conversation(snapshot(OPEN, max_retained_body=8))
    envoy.send(*POST)
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_ERROR))
    assert envoy.error == Reason.BODY_NOT_RETAINED


def test_a_clean_close_after_the_pick_is_fine() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(*POST)
    envoy.picker(picked(B))
    envoy.do(envoy.exchange.picker_closed(None))
    assert envoy.destination == B
    assert envoy.request.body == b"hello world"
    envoy.send(response_headers(), body(b"ok", end=True, response=True))
    assert envoy.response.ended
    assert envoy.exchange.result.passthrough is None


# --- trailers ---


@pytest.mark.parametrize("name", ["Host", "HOST", ":authority", ":path"])
def test_what_routes_match_by_stays_when_envoy_chooses_the_route_once_more(name: str) -> None:
    envoy = conversation()
    envoy.send(request_headers(), body(b"hello"), trailers())
    changed: dict[str, Any] = {name: "elsewhere", "x_kept": "yes"}
    envoy.picker(picked(B, **changed), streamed(b"hello", end=True))
    assert envoy.request.headers is not None
    response = envoy.request.headers.request_headers.response
    assert response.clear_route_cache
    assert {o.header.key for o in response.header_mutation.set_headers} == {DESTINATION, "x-kept"}


def test_request_trailers_end_the_body_for_a_picker_that_ignores_them() -> None:
    envoy = conversation()
    envoy.send(request_headers(), body(b"hello"), trailers())
    kinds = [message.WhichOneof("request") for message in envoy.to_picker]
    assert kinds == ["request_headers", "request_body", "request_body", "request_trailers"]
    assert envoy.to_picker[2].request_body.end_of_stream
    envoy.picker(picked(B), streamed(b"hello", end=True))
    assert envoy.request.body == b"hello"
    assert not envoy.request.ended
    assert envoy.request.headers is not None
    marks = envoy.request.headers.dynamic_metadata.fields["epp-client"].struct_value.fields
    assert marks["request-trailers"].bool_value, "Envoy would send the body twice"
    assert envoy.request.headers.request_headers.response.clear_route_cache
    envoy.ring(Timer.TRAILERS)
    assert envoy.request.ended
    assert envoy.exchange.result.trailers_answered is False


def test_a_picker_known_to_ignore_trailers_is_not_waited_for() -> None:
    envoy = conversation(trailers_expected=False)
    envoy.send(request_headers(), body(b"hello"), trailers())
    envoy.picker(unchanged(), unchanged(), picked(B))
    assert envoy.request.body == b"hello"
    assert envoy.request.ended


def test_trailers_that_are_not_answered_leave_the_response_its_deadline() -> None:
    envoy = conversation()
    envoy.send(request_headers(), body(b"hello"), trailers())
    envoy.picker(picked(B), streamed(b"hello", end=True))
    envoy.send(response_headers(end=True))
    envoy.ring(Timer.TRAILERS)
    assert envoy.request.ended
    envoy.silence(Timer.RESPONSE)
    assert envoy.response.ended


@pytest.mark.parametrize("ended", [True, False])
def test_an_answered_response_leaves_the_request_trailers_their_deadline(ended: bool) -> None:
    envoy = conversation()
    envoy.send(request_headers(), body(b"hello"), trailers())
    envoy.picker(picked(B), streamed(b"hello", end=True))
    envoy.send(response_headers(end=ended))
    envoy.picker(answered("response_headers"))
    envoy.silence(Timer.RESPONSE)
    envoy.ring(Timer.TRAILERS)
    assert envoy.request.ended
    assert envoy.armed == set()


def test_a_response_that_goes_on_does_not_put_off_the_deadline_of_the_request_trailers() -> None:
    envoy = conversation()
    envoy.send(request_headers(), trailers())
    envoy.picker(picked(B), streamed(b"", end=True))
    envoy.send(response_headers(), body(b"chunk", response=True))
    for answer in (answered("response_headers"), streamed(b"chunk", response=True)):
        actions = envoy.exchange.from_picker(answer)
        assert not any(isinstance(action, Arm | Disarm) for action in actions)
    assert Timer.TRAILERS in envoy.armed


def test_the_pickers_trailers_answer_is_given_to_envoy() -> None:
    envoy = conversation()
    envoy.send(request_headers(), body(b"hello"), trailers())
    envoy.picker(picked(B), streamed(b"hello", end=True), answered("request_trailers"))
    assert envoy.request.ended
    assert envoy.exchange.result.trailers_answered is True


# --- the response ---


def steered(**settings: Any) -> Envoy:
    envoy = conversation(snapshot(CLOSE, **settings))
    envoy.send(*POST)
    envoy.picker(picked(B), streamed(b"hello world", end=True))
    return envoy


def test_the_picker_may_change_the_response() -> None:
    envoy = steered()
    envoy.send(response_headers(), body(b"small", end=True, response=True))
    envoy.picker(answered("response_headers"), streamed(b"large", end=True, response=True))
    assert envoy.response.body == b"large"
    assert envoy.response.ended


RESPONSE_DEATHS = {
    "before anything": [],
    "after the headers": [answered("response_headers")],
    "after half a chunk": [answered("response_headers"), streamed(b"on", response=True)],
    "after a chunk": [answered("response_headers"), unchanged(response=True)],
    "body without headers": [streamed(b"one", response=True)],
    "in garbage": [b"\xff"],
}


@pytest.mark.parametrize("replies", RESPONSE_DEATHS.values(), ids=RESPONSE_DEATHS.keys())
def test_a_picker_never_breaks_a_response_that_flows(replies: list[bytes]) -> None:
    envoy = steered()
    envoy.send(response_headers(), body(b"one", response=True), body(b"two", response=True))
    envoy.picker(*replies)
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_ERROR))
    envoy.send(body(b"three", end=True, response=True))
    assert envoy.response.body == b"onetwothree"
    assert envoy.response.ended
    assert envoy.exchange.result.passthrough in (Reason.PICKER_ERROR, Reason.PICKER_PROTOCOL)


def test_a_silent_picker_is_passed_by_and_still_gets_copies() -> None:
    envoy = steered()
    envoy.send(response_headers())
    envoy.silence(Timer.RESPONSE)
    envoy.send(body(b"one", response=True), body(b"", end=True, response=True))
    assert envoy.response.body == b"one"
    assert envoy.response.ended
    assert envoy.exchange.result.passthrough is Reason.PICKER_TIMEOUT
    assert envoy.to_picker[-1].response_body.end_of_stream


def test_a_picker_that_is_passed_by_has_its_say_in_a_request_under_way() -> None:
    envoy = conversation()
    envoy.send(request_headers())
    envoy.picker(picked(B))
    envoy.ring(Timer.END)
    envoy.send(body(b"one"), response_headers())
    envoy.picker(streamed(b"one"))
    envoy.silence(Timer.RESPONSE)
    envoy.send(body(b"a", response=True), body(b"two"))
    envoy.picker(answered("response_headers"), streamed(b"two"))
    assert (envoy.request.body, envoy.response.body) == (b"onetwo", b"a")
    envoy.send(body(b"b", end=True, response=True))
    assert (envoy.response.body, envoy.response.ended) == (b"ab", True)


@pytest.mark.parametrize("bound", ["a body's", "everybody's"])
@pytest.mark.parametrize("then", ["silence", "death"])
@pytest.mark.parametrize("request_trailers", [False, True])
def test_a_chunk_that_cannot_be_kept_waits_for_no_picker(
    bound: str, then: str, request_trailers: bool
) -> None:
    few = bound == "a body's"
    envoy = conversation(
        snapshot(CLOSE, max_retained_body=200 if few else 1000), budget=10_000 if few else 200
    )
    ending = trailers() if request_trailers else body(b"", end=True)
    envoy.send(request_headers(), body(b"hello"), ending)
    envoy.picker(picked(B), streamed(b"hello", end=True))
    envoy.send(response_headers())
    envoy.picker(answered("response_headers"))
    chunk = b"x" * 300
    envoy.send(body(chunk, response=True))
    if then == "death":
        envoy.do(envoy.exchange.picker_closed(Reason.PICKER_ERROR))
    envoy.silence(Timer.RESPONSE)
    envoy.send(body(b"end", end=True, response=True))
    assert (envoy.response.body, envoy.response.ended) == (chunk + b"end", True)
    assert envoy.exchange.result.passthrough is Reason.BODY_NOT_RETAINED


@pytest.mark.parametrize("mode", [ResponseMode.OBSERVE, ResponseMode.SKIP, ResponseMode.NONE])
def test_observe_and_skip_answer_at_once(mode: ResponseMode) -> None:
    envoy = steered(response_mode=mode)
    asked = len(envoy.to_picker)
    envoy.send(response_headers(), body(b"one", end=True, response=True))
    assert envoy.response.body == b"one"
    assert envoy.response.ended
    copies = len(envoy.to_picker) - asked
    assert copies == (2 if mode is ResponseMode.OBSERVE else 0)


# --- a picker that gives up a request which it had steered ---


@pytest.mark.parametrize("begun", [False, True])
def test_an_eviction_before_the_response_is_the_clients_answer(begun: bool) -> None:
    envoy = steered()
    if begun:
        envoy.send(response_headers())
    envoy.picker(immediate(429))
    assert envoy.refusal is not None
    assert envoy.refusal.immediate_response.status.code == 429
    assert envoy.finished
    assert not envoy.failed
    exchange = envoy.exchange
    assert (exchange.result.outcome, exchange.result.eviction) == (
        Outcome.EVICTED,
        Eviction.ANSWERED,
    )


@pytest.mark.parametrize("passed_by", [False, True])
@pytest.mark.parametrize("mode", [ResponseMode.RELAY, ResponseMode.OBSERVE])
def test_an_eviction_amid_the_response_resets_it(mode: ResponseMode, passed_by: bool) -> None:
    envoy = steered(response_mode=mode)
    envoy.send(response_headers())
    if passed_by:
        envoy.silence(Timer.RESPONSE)
    elif mode is ResponseMode.RELAY:
        envoy.picker(answered("response_headers"))
    envoy.send(body(b"one", response=True))
    envoy.picker(immediate(429))
    assert envoy.failed
    exchange = envoy.exchange
    assert (exchange.result.outcome, exchange.result.eviction) == (Outcome.EVICTED, Eviction.RESET)
    assert exchange.result.failure is None
    assert exchange.retained == 0


def test_a_pool_may_let_an_evicted_response_finish() -> None:
    envoy = steered(eviction="finish")
    envoy.send(response_headers(), body(b"one", response=True))
    envoy.picker(answered("response_headers"), immediate(429))
    envoy.send(body(b"two", end=True, response=True))
    assert (envoy.response.body, envoy.response.ended) == (b"onetwo", True)
    exchange = envoy.exchange
    assert (exchange.result.outcome, exchange.result.eviction) == (
        Outcome.STEERED,
        Eviction.FINISHED,
    )
    assert exchange.result.passthrough is None


def test_an_eviction_after_the_whole_response_changes_nothing() -> None:
    envoy = steered()
    envoy.send(response_headers(end=True))
    envoy.picker(answered("response_headers"), immediate(429))
    assert not envoy.failed
    assert (envoy.exchange.result.outcome, envoy.exchange.result.eviction) == (
        Outcome.STEERED,
        None,
    )


ENDS: dict[str, tuple[list[bytes], list[bytes]]] = {
    "after the request": ([], [streamed(b"", end=True)]),
    "after a response without a body": (
        [response_headers(end=True)],
        [answered("response_headers"), streamed(b"", end=True, response=True)],
    ),
    "after a response": (
        [response_headers(), body(b"one", end=True, response=True)],
        [answered("response_headers"), streamed(b"one", end=True, response=True)],
    ),
    "of the request, amid the response": (
        [response_headers(), body(b"one", response=True)],
        [answered("response_headers"), streamed(b"", end=True)],
    ),
}


@pytest.mark.parametrize(("sent", "said"), ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("form", ["streamed", "unchanged", "trailers"])
def test_empty_repeats_of_an_end_are_ignored(
    sent: list[bytes], said: list[bytes], form: str
) -> None:
    envoy = steered()
    envoy.send(*sent)
    envoy.picker(*said)
    response = said[-1][:1] == streamed(b"", response=True)[:1]
    repeats = {
        "streamed": streamed(b"", end=True, response=response),
        "unchanged": unchanged(response=response),
        "trailers": answered("response_trailers" if response else "request_trailers"),
    }
    before = len(envoy.actions)
    envoy.picker(repeats[form], repeats[form])
    kinds = {type(action) for action in envoy.actions[before:]}
    assert not kinds & {ToEnvoy, CancelPicker, FinishPicker, FailEnvoy}
    assert envoy.exchange.result.passthrough is None
    assert envoy.exchange.result.outcome is Outcome.STEERED


def test_what_was_not_kept_leaves_no_event() -> None:
    """Ten bytes, where eight may be kept, answered "unchanged", and then an answer of Envoy's own."""
    envoy = conversation(snapshot(max_retained_body=8))
    envoy.send(request_headers(), body(b"0123456789", end=True))
    envoy.picker(unchanged())
    envoy.send(response_headers(end=True))
    assert envoy.exchange.result.outcome is Outcome.LOCAL_REPLY
    assert envoy.response.headers is not None


def test_grpc_responses_with_trailers() -> None:
    envoy = steered()
    envoy.send(response_headers(), body(b"m", response=True), trailers(response=True))
    envoy.picker(answered("response_headers"), streamed(b"m", response=True))
    assert not envoy.response.ended
    envoy.picker(answered("response_trailers"))
    assert envoy.response.ended
    assert envoy.response.body == b"m"


def test_the_served_endpoint_is_reported_from_the_upstream_address() -> None:
    envoy = steered()
    message = ProcessingRequest.FromString(response_headers(end=True))
    message.attributes["envoy.filters.http.ext_proc"].fields["upstream.address"].string_value = C
    envoy.send(message.SerializeToString())
    metadata = envoy.to_picker[-1].metadata_context.filter_metadata[LB_NAMESPACE]
    assert metadata.fields[SERVED].string_value == C
    assert envoy.exchange.result.endpoint == C


def test_the_refusal_of_a_grpc_request_is_a_grpc_status() -> None:
    envoy = conversation(snapshot(CLOSE))
    envoy.send(request_headers(content_type="application/grpc"))
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_ERROR))
    assert envoy.refusal is not None
    assert envoy.refusal.immediate_response.grpc_status.status == 14


def test_a_client_that_hangs_up_leaves_nothing_behind() -> None:
    envoy = conversation()
    envoy.send(request_headers(), body(b"hello"))
    assert envoy.exchange.retained > 0
    envoy.do(envoy.exchange.envoy_closed())
    assert envoy.exchange.retained == 0
    assert envoy.exchange.result.outcome is Outcome.CANCELLED
    assert envoy.exchange.from_picker(picked(A)) == []


@pytest.mark.parametrize(
    "answer", [picked(None, x_note="x" * 5000), answered("request_trailers"), streamed(b"he")]
)
def test_every_answer_that_waits_counts_as_retained(answer: bytes) -> None:
    envoy = conversation()
    envoy.send(request_headers(), body(b"hello"), trailers())
    kept = envoy.exchange.retained
    envoy.picker(answer)
    assert envoy.exchange.retained == kept + len(answer)
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_ERROR))
    assert (envoy.exchange.retained, envoy.exchange.state.request._budget.used) == (0, 0)


def test_an_answer_without_a_body_is_released_whole() -> None:
    envoy = conversation()
    envoy.send(request_headers(end=True))
    envoy.picker(picked(A, x_note="x" * 5000))
    assert (envoy.destination, envoy.exchange.retained) == (A, 0)


@pytest.mark.parametrize("name", ["request_headers", "request_trailers", "immediate_response"])
def test_only_bodies_may_be_megabytes(name: str) -> None:
    huge = ProcessingResponse()
    getattr(huge, name).SetInParent()
    huge.dynamic_metadata.fields["x"].string_value = "x" * MAX_PLAIN_ANSWER
    envoy = conversation(snapshot(CLOSE))
    envoy.send(request_headers(), body(b"hello"), trailers())
    envoy.picker(huge.SerializeToString())
    assert envoy.error == Reason.PICKER_PROTOCOL


@pytest.mark.parametrize("event", ["a newer table", "the end of the wait"])
def test_a_lost_original_is_noticed_whatever_releases_the_answer(event: str) -> None:
    envoy = conversation(
        snapshot(CLOSE, members=table(A, generation=2), acknowledged=1, max_retained_body=8)
    )
    envoy.send(request_headers(), body(b"more than may be kept"))
    envoy.picker(unchanged(), picked(A))
    if event == "a newer table":
        envoy.do(envoy.exchange.pool_changed(snapshot(CLOSE, members=table(A, generation=2))))
    else:
        envoy.ring(Timer.ENDPOINT)
    assert envoy.error == Reason.BODY_NOT_RETAINED
    assert envoy.finished


def test_a_lost_original_is_noticed_when_the_picker_closes_after_its_pick() -> None:
    envoy = conversation(snapshot(CLOSE, max_retained_body=8))
    envoy.send(request_headers(), body(b"more than may be kept", end=True))
    envoy.picker(picked(A), unchanged(), streamed(b"", end=True))
    envoy.do(envoy.exchange.picker_closed(None))
    assert envoy.error == Reason.BODY_NOT_RETAINED


@pytest.mark.parametrize("before_the_pick", [True, False])
def test_a_lost_body_that_is_to_stay_as_it_is_never_arrives_empty(before_the_pick: bool) -> None:
    envoy = conversation(snapshot(CLOSE, max_retained_body=8))
    envoy.send(request_headers(), body(b"hello world"), trailers())
    said = [picked(B), unchanged(), unchanged(), answered("request_trailers")]
    if before_the_pick:
        said = [*said[1:3], said[0], said[3]]
    envoy.picker(*said)
    assert envoy.error == Reason.BODY_NOT_RETAINED
