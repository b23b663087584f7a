"""What is recorded of single requests, and how much at most."""

import asyncio

from epp_client.data_plane.recorder import MAX_FAILURES, Recorder
from epp_client.errors import Reason
from epp_client.metrics.decisions import News
from epp_client.picker.health import AddressNote
from epp_client.pool.inference_pool import FailureMode
from epp_client.relay.outcome import Outcome
from tests.data_plane.test_admission import EnvoyStream, service
from tests.relay.conversation import (
    A,
    B,
    Envoy,
    body,
    conversation,
    picked,
    request_headers,
    response_headers,
    snapshot,
    streamed,
)

POOL = "default/llama"
PICKER = "10.1.0.1:9002"


def steered(key: str = A) -> Envoy:
    """A request with a body that its picker has steered, and its response."""
    envoy = conversation()
    envoy.send(request_headers(x_request_id="r-1"), body(b"hello", end=True))
    envoy.picker(picked(key, x_gateway_model_name="llama-8b"), streamed(b"hello", end=True))
    envoy.send(response_headers(), body(b"world!", end=True, response=True))
    return envoy


def refused() -> Envoy:
    """A request whose picker has named what is no endpoint."""
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(request_headers(x_request_id="r-2"), body(b"hello", end=True))
    envoy.picker(picked(f"{A} token-of-a-client"), streamed(b"hello", end=True))
    return envoy


def ended(recorder: Recorder, envoy: Envoy) -> None:
    recorder.ended(POOL, envoy.exchange, {}, PICKER, 0.25, 1.5)


def taken(recorder: Recorder) -> News:
    return recorder.take({})


def test_a_record_says_what_was_decided() -> None:
    recorder = Recorder(samples=1)
    ended(recorder, steered())
    [made] = taken(recorder).decisions
    assert (made.pool, made.outcome, made.reason) == (POOL, Outcome.STEERED, None)
    assert (made.request_id, made.model, made.picker) == ("r-1", "llama-8b", PICKER)
    assert (made.said, made.picked) == (A, A)
    assert (made.pick_seconds, made.seconds) == (0.25, 1.5)
    assert (made.request_bytes, made.response_bytes) == (5, 6)
    assert not made.failed


def test_a_failure_says_what_the_picker_said_but_nothing_of_a_client() -> None:
    recorder = Recorder(samples=0)
    ended(recorder, refused())
    [made] = taken(recorder).decisions
    assert (made.outcome, made.reason) == (Outcome.REFUSED, Reason.PICK_MALFORMED)
    assert (made.request_id, made.picked, made.failed) == ("r-2", "", True)
    assert A in made.said
    assert "token" not in made.said


def test_samples_and_failures_have_bounds_of_their_own() -> None:
    recorder = Recorder(samples=2)
    good, bad = steered(), refused()
    for _ in range(MAX_FAILURES + 7):
        ended(recorder, good)
        ended(recorder, bad)
    news = taken(recorder)
    failures = sum(one.failed for one in news.decisions)
    assert (failures, len(news.decisions) - failures, news.missed) == (MAX_FAILURES, 2, 7)
    ended(recorder, good)
    ended(recorder, bad)
    assert len(taken(recorder).decisions) == 2


def test_without_samples_good_requests_are_counted_only() -> None:
    recorder = Recorder(samples=0)
    ended(recorder, steered())
    news = taken(recorder)
    assert news.decisions == []
    assert news.traffic[POOL][A].picked == 1


def test_the_traffic_of_each_endpoint() -> None:
    recorder = Recorder(samples=0)
    ended(recorder, steered())
    # Envoy could not connect to the first of the list.
    tried = steered(f"{A},{B}")
    tried.exchange.result.endpoint = B
    ended(recorder, tried)
    # Nobody in the list could be reached.
    failed = steered(f"{A},{B}")
    failed.exchange.result.endpoint = B
    failed.exchange.result.endpoint_failure = Reason.ENDPOINT_UNREACHABLE
    ended(recorder, failed)
    traffic = taken(recorder).traffic[POOL]
    first, second = traffic[A], traffic[B]
    assert (first.picked, first.served, first.failed, first.unreachable) == (3, 1, 0, 2)
    assert (second.picked, second.served, second.failed, second.unreachable) == (0, 1, 1, 1)
    assert taken(recorder).traffic == {}


def test_notes_about_pickers_are_handed_on() -> None:
    notes = {POOL: {PICKER: AddressNote("refused", 1.0, None)}}
    assert Recorder(0).take(notes).pickers is notes


async def test_a_request_for_an_unknown_pool_is_recorded_too() -> None:
    made = service()
    stream = EnvoyStream()
    owner = made.accept(stream, "/envoy.service.ext_proc.v3.ExternalProcessor/Process", {})
    owner.message_received(request_headers(end=True, x_request_id="r-3"))
    [record] = taken(made.account.recorder).decisions
    assert (record.pool, record.reason) == ("unknown", Reason.POOL_NOT_NAMED)
    assert record.request_id == "r-3"
    assert b'"request_id": "r-3"' in stream.sent[0]
    assert b'"code": "pool_not_named"' in stream.sent[0]
    await made.pickers.close()
    await asyncio.sleep(0)
