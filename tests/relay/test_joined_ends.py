"""An empty end of a body goes to the picker with the part before it, if both have arrived."""

import pytest

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest

from .conversation import (
    A,
    Envoy,
    answered,
    body,
    conversation,
    picked,
    request_headers,
    response_headers,
    streamed,
    trailers,
)


def bodies(envoy: Envoy) -> list[tuple[bytes, bool]]:
    """The parts of bodies that the picker has got, and whether each is the last."""
    found = []
    for message in envoy.to_picker:
        kind = message.WhichOneof("request")
        if kind in ("request_body", "response_body"):
            part = getattr(message, kind)
            found.append((part.body, part.end_of_stream))
    return found


def test_the_end_of_a_request_that_is_here_is_joined() -> None:
    envoy = conversation()
    envoy.send(request_headers())
    envoy.send(body(b"abc"), followed=True)
    assert bodies(envoy) == []
    envoy.send(body(b"", end=True))
    assert bodies(envoy) == [(b"abc", True)]
    envoy.picker(picked(A), streamed(b"abc", end=True))
    assert (envoy.request.body, envoy.request.ended, envoy.destination) == (b"abc", True, A)
    assert envoy.exchange.request_bytes == 3


def test_the_end_of_a_response_that_is_here_is_joined() -> None:
    envoy = conversation()
    envoy.send(request_headers(end=True))
    envoy.picker(picked(A))
    envoy.send(response_headers(), body(b"one", response=True))
    envoy.send(body(b"two", response=True), followed=True)
    envoy.send(body(b"", end=True, response=True))
    assert bodies(envoy) == [(b"one", False), (b"two", True)]
    envoy.picker(answered("response_headers"))
    envoy.picker(streamed(b"one", response=True), streamed(b"two", end=True, response=True))
    assert (envoy.response.body, envoy.response.ended) == (b"onetwo", True)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (body(b"def", end=True), [(b"abc", False), (b"def", True)]),
        (body(b"def"), [(b"abc", False), (b"def", False)]),
        (trailers(), [(b"abc", False), (b"", True)]),
        (response_headers(), [(b"abc", False)]),
    ],
    ids=["an end with bytes", "another part", "trailers", "the response"],
)
def test_anything_else_comes_after_the_part(
    second: bytes, expected: list[tuple[bytes, bool]]
) -> None:
    envoy = conversation()
    envoy.send(request_headers())
    envoy.picker(picked(A))
    envoy.send(body(b"abc"), followed=True)
    envoy.send(second)
    assert bodies(envoy) == expected


def test_each_part_waits_for_the_next_one_only() -> None:
    envoy = conversation()
    envoy.send(request_headers())
    for part in (b"a", b"b", b"c"):
        envoy.send(body(part), followed=True)
    envoy.send(body(b"", end=True))
    assert bodies(envoy) == [(b"a", False), (b"b", False), (b"c", True)]


def test_an_empty_part_is_not_held() -> None:
    envoy = conversation()
    envoy.send(request_headers())
    envoy.send(body(b""), followed=True)
    assert bodies(envoy) == [(b"", False)]


def test_a_part_before_a_broken_message_is_counted_and_the_request_refused() -> None:
    envoy = conversation()
    envoy.send(request_headers())
    envoy.send(body(b"abc"), followed=True)
    envoy.do(envoy.exchange.from_envoy(b"\xff"))
    assert envoy.error == "envoy_protocol"
    assert envoy.exchange.request_bytes == 3


def test_a_part_is_dropped_with_its_exchange() -> None:
    envoy = conversation()
    envoy.send(request_headers())
    envoy.send(body(b"abc"), followed=True)
    envoy.do(envoy.exchange.envoy_closed())
    assert envoy.exchange.state.held is None
    assert envoy.exchange.retained == 0


def test_a_replay_has_the_joined_end() -> None:
    envoy = conversation()
    envoy.send(request_headers())
    envoy.send(body(b"abc"), followed=True)
    envoy.send(body(b"", end=True))
    envoy.do(envoy.exchange.picker_closed(None, died=True))
    assert envoy.opened == 2
    assert isinstance(envoy.to_picker[0], ProcessingRequest)
    assert bodies(envoy) == [(b"abc", True)]
