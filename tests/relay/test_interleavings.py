"""Whatever Envoy and the picker do, in any order: legal replies, whole bodies, nothing left over."""

from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.errors import Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.settings import ResponseMode
from epp_client.relay.actions import Timer
from epp_client.relay.outcome import Outcome
from epp_client.relay.request_phase import MAX_ATTEMPTS

from .conversation import (
    OUTSIDE,
    A,
    B,
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
    trailers,
    unchanged,
)

PARTS = st.lists(st.binary(min_size=1, max_size=5), max_size=3)
REPLIES = st.one_of(
    st.sampled_from([A, B, OUTSIDE, f"{OUTSIDE},{B}", "", "pod:1", None]).map(picked),
    st.builds(streamed, st.binary(max_size=5), st.booleans()),
    st.builds(streamed, st.binary(max_size=5), st.booleans(), response=st.just(True)),
    st.booleans().map(lambda response: unchanged(response=response)),
    st.sampled_from(
        ["request_trailers", "response_headers", "response_trailers", "request_headers"]
    ).map(answered),
    st.just(immediate(429)),
    st.binary(max_size=6),
)
CLOSINGS = st.sampled_from([None, Reason.PICKER_ERROR, Reason.PICKER_UNREACHABLE])


@st.composite
def envoys(draw: st.DrawFn) -> tuple[list[bytes], list[bytes], list[bytes], list[bytes]]:
    """Request messages, its payloads, response messages, its payloads."""
    sides = []
    for response in (False, True):
        parts = draw(PARTS)
        ending = draw(st.sampled_from(["last", "empty", "trailers"]))
        head = response_headers if response else request_headers
        if not parts and ending != "trailers":
            sides += [[head(end=True)], parts]
            continue
        messages = [head()]
        for index, part in enumerate(parts):
            last = ending == "last" and index == len(parts) - 1
            messages.append(body(part, last, response=response))
        if ending == "empty":
            messages.append(body(b"", end=True, response=response))
        elif ending == "trailers":
            messages.append(trailers(response=response))
        sides += [messages, parts]
    return sides[0], sides[1], sides[2], sides[3]


def payload(messages: list[bytes]) -> bytes:
    """The body that Envoy sent in `messages`."""
    parsed = map(ProcessingRequest.FromString, messages)
    return b"".join(message.request_body.body for message in parsed)


def asked_for(envoy: Envoy) -> bytes:
    """The body on the newest of the picker's streams, which begins with the headers."""
    first, *rest = envoy.to_picker
    assert first.HasField("request_headers")
    return b"".join(message.request_body.body for message in rest)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_every_interleaving_is_legal_and_loses_nothing(data: st.DataObject) -> None:
    request, sent, response, answer = data.draw(envoys())
    mode = data.draw(st.sampled_from(FailureMode))
    envoy = conversation(
        snapshot(mode, response_mode=data.draw(st.sampled_from(ResponseMode))),
        trailers_expected=data.draw(st.booleans()),
    )
    exchange = envoy.exchange
    waiting = list(request)
    # what Envoy has sent
    gone: list[bytes] = []
    # the picker has not (yet) said anything of its own about the body
    honest = True
    for _ in range(data.draw(st.integers(0, 16))):
        step = data.draw(st.sampled_from(["envoy", "picker", "died", "close", "stalled", "timer"]))
        if step == "envoy" and waiting:
            gone.append(waiting.pop(0))
            envoy.send(gone[-1])
        elif step == "picker":
            envoy.picker(data.draw(REPLIES))
            honest = False
        elif step == "close":
            envoy.do(exchange.picker_closed(data.draw(CLOSINGS)))
        elif step == "died":
            opened, released = envoy.opened, envoy.request.headers is not None
            envoy.do(exchange.picker_closed(Reason.PICKER_UNREACHABLE, died=True))
            if envoy.opened > opened:
                assert not released, "an answer was released: no other picker may have its say"
                assert asked_for(envoy) == payload(gone)
                assert envoy.opened <= MAX_ATTEMPTS
        elif step == "stalled":
            envoy.do(exchange.picker_stalled(data.draw(st.booleans())))
        elif step == "timer":
            envoy.ring(data.draw(st.sampled_from(Timer)))
    for message in waiting:
        envoy.send(message)
    for timer in (Timer.ENDPOINT, Timer.PICK, Timer.TRAILERS, Timer.END):
        envoy.silence(timer)
    if envoy.refusal is None:
        assert envoy.request.ended, "Envoy would wait for ever"
        if honest:
            assert envoy.request.body == b"".join(sent)
        before = envoy.response.body
        assert before == b""
        for message in response:
            envoy.send(message)
        envoy.do(exchange.picker_closed(Reason.PICKER_ERROR))
        assert envoy.response.ended, "a response that began must go on"
        assert envoy.response.body == b"".join(answer)
    else:
        # A refusal by the picker that comes after its pick is an eviction.
        by_picker = (Outcome.REFUSED_BY_PICKER, Outcome.EVICTED)
        assert exchange.result.outcome in (Outcome.REFUSED, *by_picker)
        assert envoy.finished
    envoy.do(exchange.envoy_closed())
    assert exchange.retained == 0
    assert exchange.from_picker(picked(A)) == []
    assert exchange.from_envoy(body(b"late")) == []
