"""What identifies a request in its headers."""

import pytest

from epp_client.ext_proc.identity import LONGEST, NOBODY, Identity, identify, trace_context
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def request(*headers: tuple[str, str]) -> bytes:
    message = ProcessingRequest()
    for key, value in headers:
        message.request_headers.headers.headers.add(key=key, raw_value=value.encode("latin-1"))
    return message.SerializeToString()


def answer(*headers: tuple[str, str]) -> bytes:
    message = ProcessingResponse()
    for key, value in headers:
        option = message.request_headers.response.header_mutation.set_headers.add()
        option.header.key, option.header.raw_value = key, value.encode()
    return message.SerializeToString()


def test_everything() -> None:
    found = identify(
        request(
            ("x-request-id", "r-1"),
            ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),
            ("x-gateway-model-name", "llama"),
            ("content-type", "application/grpc+proto"),
        )
    )
    assert found == Identity("r-1", TRACE, "llama", True, span_id=SPAN, sampled=True)


def test_the_picker_may_name_the_model_and_nothing_else() -> None:
    said = answer(("X-Gateway-Model-Name-Rewrite", "llama-8b"), ("x-request-id", "forged"))
    asked = request(("x-request-id", "r-1"), ("x-gateway-model-name", "llama"))
    assert identify(asked, said) == Identity("r-1", "", "llama-8b", grpc=False)


@pytest.mark.parametrize(
    "trace", ["", "00-xyz", f"00-{TRACE}", f"00-{TRACE.upper()}-00f067aa0ba902b7-01"]
)
def test_what_is_no_trace_is_none(trace: str) -> None:
    assert identify(request(("traceparent", trace))).trace_id == ""


def test_a_value_is_short_and_printable() -> None:
    found = identify(request(("x-request-id", "a\nb c\x1b[31m" + "x" * 1_000)))
    assert found.request_id == ("abc[31m" + "x" * 1_000)[:LONGEST]


@pytest.mark.parametrize("raw", [b"", b"\xff\xff"])
def test_of_no_message_nothing_is_known(raw: bytes) -> None:
    assert identify(raw) == NOBODY


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("03", True)])
def test_the_parent_decides_about_sampling(flags: str, sampled: bool) -> None:
    found = identify(request(("traceparent", f"00-{TRACE}-{SPAN}-{flags}")))
    assert (found.span_id, found.sampled) == (SPAN, sampled)


def test_the_context_of_the_stream_comes_before_that_of_the_client() -> None:
    asked = request(("traceparent", f"00-{TRACE}-{SPAN}-01"))
    found = identify(asked, context=f"00-{TRACE}-{SPAN[::-1]}-00")
    assert (found.span_id, found.sampled) == (SPAN[::-1], False)
    assert identify(asked, context="nonsense").span_id == SPAN


def test_the_picker_gets_the_context_of_the_stream_and_nothing_else_of_it() -> None:
    context = {"traceparent": "00-a-b-01", "tracestate": "v=1"}
    assert trace_context({**context, "x-inference-pool": "a/b", "authorization": "x"}) == context
    assert trace_context({"tracestate": "v=1"}) == {}
