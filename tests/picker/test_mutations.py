"""Header mutations that Envoy fails a request for are told from those that it makes."""

import pytest

from epp_client.errors import MalformedMessage
from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderMutation, ProcessingRequest
from epp_client.picker.protocol import DESTINATION, MAX_HEADERS, check_mutation

GOOD = {
    "nothing": {},
    "a header": {"x-added": b"yes"},
    "upper case": {"X-Added": b"yes"},
    "a pseudo header": {":path": b"/other"},
    "an empty value": {"x-empty": b""},
    "bytes beyond ASCII": {"x-name": "é".encode()},
    "a tab": {"x-tab": b"a\tb"},
    "a large value": {"x-large": b"x" * 50_000},
    "many": {f"x-{n}": b"" for n in range(80)},
    "a destination, which is judged instead": {DESTINATION: b"x" * 100_000},
}
BAD = {
    "two lines": {"x-added": b"a\nb"},
    "a carriage return": {"x-added": b"a\rb"},
    "a zero byte": {"x-added": b"a\x00b"},
    "a delete": {"x-added": b"\x7f"},
    "no name": {"": b"a"},
    "a blank in the name": {"x added": b"a"},
    "a colon in the name": {"x:added": b"a"},
    "framing": {"Transfer-Encoding": b"chunked"},
    "too large": {"x-large": b"x" * 61_000},
    "too large together": {f"x-{n}": b"x" * 5_000 for n in range(12)},
    "too many": {f"x-{n}": b"" for n in range(MAX_HEADERS - 10)},
}


def original(*, response: bool) -> bytes:
    """A message with 20 headers of about 100 bytes."""
    message = ProcessingRequest()
    headers = message.response_headers if response else message.request_headers
    for number in range(20):
        header = headers.headers.headers.add()
        header.key, header.raw_value = f"x-original-{number}", b"x" * 100
    return message.SerializeToString()


def mutation(changes: dict[str, bytes], *, raw: bool) -> HeaderMutation:
    made = HeaderMutation()
    for key, value in changes.items():
        header = made.set_headers.add().header
        header.key = key
        if raw:
            header.raw_value = value
        else:
            header.value = value.decode()
    return made


@pytest.mark.parametrize("raw", [True, False], ids=["raw_value", "value"])
@pytest.mark.parametrize("response", [True, False], ids=["response", "request"])
@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD.keys())
def test_what_envoy_makes(changes: dict[str, bytes], response: bool, raw: bool) -> None:
    check_mutation(mutation(changes, raw=raw), original(response=response))


@pytest.mark.parametrize("raw", [True, False], ids=["raw_value", "value"])
@pytest.mark.parametrize("response", [True, False], ids=["response", "request"])
@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
def test_what_envoy_refuses(changes: dict[str, bytes], response: bool, raw: bool) -> None:
    with pytest.raises(MalformedMessage):
        check_mutation(mutation(changes, raw=raw), original(response=response))
