"""A picker that answers every message in order, late or not at all, and little room to keep bodies.

Whatever is lost, late or stalled, both bodies arrive whole, or the request is refused before the response,
or cut off.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.errors import Reason
from epp_client.pool.inference_pool import FailureMode
from epp_client.relay.actions import Timer

from .conversation import (
    B,
    Envoy,
    answered,
    body,
    conversation,
    picked,
    request_headers,
    response_headers,
    snapshot,
    streamed,
    trailers,
)

CHUNKS = st.lists(st.sampled_from([b"a", b"b" * 40, b"c" * 150]), max_size=4)
ENDINGS = st.sampled_from(["last", "empty", "trailers"])


class Picker:
    """Answers what it was sent, one message a turn; `late` keeps its pick for the end of the request."""

    def __init__(self, envoy: Envoy, *, late: bool, ignores_trailers: bool) -> None:
        self._envoy = envoy
        self._late = late
        self._ignores_trailers = ignores_trailers
        self._stream = 0
        self._read = 0
        self._kept: list[bytes] = []

    def turn(self) -> None:
        envoy = self._envoy
        if envoy.opened != self._stream:
            self._stream, self._read, self._kept = envoy.opened, 0, []
        if self._read == len(envoy.to_picker):
            return
        message = envoy.to_picker[self._read]
        self._read += 1
        match message.WhichOneof("request"):
            case "request_headers":
                self._request(picked(B), message.request_headers.end_of_stream)
            case "request_body":
                part = message.request_body
                self._request(streamed(part.body, part.end_of_stream), part.end_of_stream)
            case "response_headers":
                envoy.picker(answered("response_headers"))
            case "response_body":
                part = message.response_body
                envoy.picker(streamed(part.body, part.end_of_stream, response=True))
            case "request_trailers" | "response_trailers" as kind if not self._ignores_trailers:
                envoy.picker(answered(kind))

    def _request(self, reply: bytes, last: bool) -> None:
        self._kept.append(reply)
        if last or not self._late:
            kept, self._kept = self._kept, []
            self._envoy.picker(*kept)


def messages(chunks: list[bytes], ending: str, *, response: bool) -> list[bytes]:
    """Envoy's messages of one direction."""
    head = response_headers if response else request_headers
    if not chunks and ending == "last":
        return [head(end=True)]
    last = len(chunks) - 1 if ending == "last" else None
    made = [head(), *(body(c, n == last, response=response) for n, c in enumerate(chunks))]
    if ending == "empty":
        made.append(body(b"", end=True, response=response))
    elif ending == "trailers":
        made.append(trailers(response=response))
    return made


@settings(max_examples=800, deadline=None)
@given(st.data())
def test_both_bodies_are_whole_whatever_becomes_of_the_picker(data: st.DataObject) -> None:
    sent, answer = data.draw(CHUNKS), data.draw(CHUNKS)
    request = messages(sent, data.draw(ENDINGS), response=False)
    response = messages(answer, data.draw(ENDINGS), response=True)
    bound, budget = data.draw(
        st.sampled_from([(0, 1 << 20), (60, 1 << 20), (1000, 0), (1000, 400), (1000, 1 << 20)])
    )
    roomy = budget == 1 << 20 and bound == 1000
    envoy = conversation(
        snapshot(data.draw(st.sampled_from(FailureMode)), max_retained_body=bound),
        budget=budget,
        trailers_expected=data.draw(st.booleans()),
    )
    exchange = envoy.exchange

    def send(left: list[bytes]) -> None:
        message = left.pop(0)
        envoy.send(message, followed=bool(left) and data.draw(st.booleans()))

    picker = Picker(envoy, late=data.draw(st.booleans()), ignores_trailers=data.draw(st.booleans()))
    alive = True
    for _ in range(data.draw(st.integers(0, 40))):
        step = data.draw(
            st.sampled_from(["request", "response", "picker", "picker", "dies", "stalls", "rings"])
        )
        if envoy.finished:
            break
        if step == "request" and request:
            send(request)
        elif step == "response" and response:
            if envoy.request.headers is None:
                continue
            send(response)
        elif step == "picker" and alive:
            picker.turn()
        elif step == "dies" and data.draw(st.integers(0, 5)) == 0:
            died = data.draw(st.booleans())
            before = envoy.opened
            envoy.do(exchange.picker_closed(Reason.PICKER_UNREACHABLE, died=died))
            alive = envoy.opened > before
        elif step == "stalls":
            envoy.do(exchange.picker_stalled(data.draw(st.booleans())))
        elif step == "rings":
            envoy.ring(data.draw(st.sampled_from(Timer)))
    begun = envoy.response.headers is not None
    for left in (request, response):
        while left and not envoy.finished:
            send(left)
        for timer in (*Timer, Timer.RESPONSE):
            envoy.silence(timer)
        if envoy.failed:
            # rather than that the upstream, which answers already, is lied to
            assert not roomy
            break
        if envoy.refusal is not None:
            assert not begun
            break
        assert envoy.request.ended, "Envoy would wait for ever"
        assert envoy.request.body == b"".join(sent)
    else:
        assert envoy.response.ended, "the client would wait for ever"
        assert envoy.response.body == b"".join(answer)
    envoy.do(exchange.envoy_closed())
    assert (exchange.retained, exchange.state.request._budget.used) == (0, 0)
