"""Whatever a picker says, in whatever spelling and whichever field: Envoy is told of members only."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.errors import Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderMutation, ProcessingResponse
from epp_client.ext_proc.replies import (
    MARKS_NAMESPACE,
    PICKER_SAID_MARK,
    REQUEST_TRAILERS_MARK,
)
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE, SERVED
from epp_client.pool.endpoints import parse_endpoint, quotable
from epp_client.pool.inference_pool import FailureMode
from epp_client.relay.actions import Timer, ToEnvoy
from epp_client.relay.outcome import Outcome

from ..relay.conversation import (
    OUTSIDE,
    A,
    B,
    C,
    Envoy,
    body,
    conversation,
    picked,
    request_headers,
    response_headers,
    snapshot,
    streamed,
    table,
    trailers,
)

V6 = "[2001:db8::1]:8000"
MEMBERS = (A, B, C, V6)
OUTSIDERS = (OUTSIDE, "10.0.0.1:8001", "[::1]:8000", "127.0.0.1:15000", "169.254.169.254:80")
ODD = (
    "[::ffff:10.0.0.1]:8000",
    "[::ffff:c000:209]:8000",
    "::ffff:10.0.0.1:8000",
    "010.0.0.1:8000",
    "10.0.0.01:8000",
    "0x0a000001:8000",
    "167772161:8000",
    "10.1:8000",
    "10.0.0.1:08000",
    "10.0.0.1:+8000",
    "10.0.0.1:80_00",
    "10.0.0.1:73536",
    "10.0.0.1:99999999999",
    "10.0.0.1:0",
    "10.0.0.1:-1",
    "10.0.0.1:",
    ":8000",
    "10.0.0.1",
    "[fe80::1%eth0]:8000",
    "[2001:db8:0:0:0:0:0:1]:8000",
    "[2001:DB8::1]:8000",
    "2001:db8::1:8000",
    "[2001:db8::1%25lo]:8000",
    "１０.0.0.1:8000",
    "10.0.0.1:８０００",
    "10.0.0.1:8000\r\nx-evil: 1",
    "10.0.0.1:8000\x00",
    "10.0.0.1:8000 192.0.2.9:8000",
    "10.0.0.1:8000;192.0.2.9:8000",
    "http://10.0.0.1:8000",
    "10.0.0.1:8000/",
    "user@10.0.0.1:8000",
    "localhost:8000",
    "\u00a010.0.0.1:8000",
    "\u200b10.0.0.1:8000",
    "",
)
ENTRIES = st.one_of(
    st.sampled_from((*MEMBERS, *OUTSIDERS, *ODD)),
    st.text(max_size=24),
    st.ip_addresses().map(lambda ip: f"[{ip}]:8000" if ip.version == 6 else f"{ip}:8000"),
)
TEXTS = st.one_of(
    st.lists(ENTRIES, max_size=5).map(",".join),
    st.lists(ENTRIES, max_size=5).map(" ,\t".join),
    st.integers(250, 10_000).map(lambda n: ",".join([A] * n)),
)
KEYS = st.sampled_from([DESTINATION, DESTINATION.upper(), "X-Gateway-Destination-Endpoint"])
OTHER_KEYS = st.sampled_from(
    [SERVED, ":authority", "host", ":path", "x-envoy-original-dst-host", "x-envoy-retry-on"]
)


@st.composite
def mutations(draw: st.DrawFn) -> HeaderMutation:
    mutation = HeaderMutation()
    for _ in range(draw(st.integers(0, 3))):
        option = mutation.set_headers.add(append_action=draw(st.integers(0, 3)))
        option.header.key = draw(st.one_of(KEYS, OTHER_KEYS))
        if draw(st.booleans()):
            option.header.raw_value = draw(TEXTS).encode(errors="replace")
        if draw(st.booleans()):
            option.header.value = draw(TEXTS)
    mutation.remove_headers.extend(draw(st.lists(KEYS, max_size=1)))
    return mutation


def add_metadata(draw: st.DrawFn, reply: ProcessingResponse) -> None:
    fields = reply.dynamic_metadata.fields
    if draw(st.booleans()):
        marks = fields[MARKS_NAMESPACE].struct_value.fields
        marks[REQUEST_TRAILERS_MARK].bool_value = True
        marks[PICKER_SAID_MARK].string_value = "a mark of the picker's"
    key = draw(st.sampled_from([DESTINATION, SERVED]))
    match draw(st.sampled_from(["none", "text", "list", "number", "struct", "flat"])):
        case "text":
            fields[LB_NAMESPACE].struct_value.fields[key].string_value = draw(TEXTS)
        case "list":
            values = fields[LB_NAMESPACE].struct_value.fields[key].list_value.values
            for entry in draw(st.lists(ENTRIES, max_size=3)):
                values.add().string_value = entry
        case "number":
            fields[LB_NAMESPACE].struct_value.fields[key].number_value = 1
        case "struct":
            inner = fields[LB_NAMESPACE].struct_value.fields[key].struct_value
            inner.fields[key].string_value = draw(TEXTS)
        case "flat":
            fields[LB_NAMESPACE].string_value = draw(TEXTS)


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """Anything that a picker may answer, steering by every field that there is."""
    reply = ProcessingResponse()
    kind = draw(
        st.sampled_from(
            [
                "request_headers",
                "request_body",
                "request_trailers",
                "response_headers",
                "response_body",
                "response_trailers",
            ]
        )
    )
    part = getattr(reply, kind)
    part.SetInParent()
    if kind.endswith("trailers"):
        part.header_mutation.CopyFrom(draw(mutations()))
    else:
        part.response.header_mutation.CopyFrom(draw(mutations()))
        part.response.clear_route_cache = draw(st.booleans())
    if kind.endswith("body"):
        chunk = part.response.body_mutation.streamed_response
        chunk.body, chunk.end_of_stream = draw(st.binary(max_size=3)), draw(st.booleans())
    add_metadata(draw, reply)
    raw = reply.SerializeToString()
    # Fields that come twice are merged, by Envoy as by us.
    return raw + raw if kind == "request_body" and draw(st.booleans()) else raw


def destinations(reply: ProcessingResponse) -> list[str]:
    """Every destination that an answer names to Envoy, in any way that Envoy could read."""
    found: list[str] = []
    for mutation in (
        reply.request_headers.response.header_mutation,
        reply.request_body.response.header_mutation,
        reply.request_trailers.header_mutation,
    ):
        for option in mutation.set_headers:
            if option.header.key.lower() == DESTINATION:
                found += [option.header.raw_value.decode(), option.header.value]
    fields = reply.dynamic_metadata.fields
    if LB_NAMESPACE in fields and DESTINATION in fields[LB_NAMESPACE].struct_value.fields:
        value = fields[LB_NAMESPACE].struct_value.fields[DESTINATION]
        assert value.WhichOneof("kind") == "string_value"
        found.append(value.string_value)
    return [entry for text in found if text for entry in text.split(",")]


def check(envoy: Envoy) -> None:
    for action in envoy.actions:
        if not isinstance(action, ToEnvoy):
            continue
        reply = ProcessingResponse.FromString(action.message)
        assert set(destinations(reply)) <= set(MEMBERS)
        fields = reply.dynamic_metadata.fields
        marks = (
            dict(fields[MARKS_NAMESPACE].struct_value.fields) if MARKS_NAMESPACE in fields else {}
        )
        said = marks.pop(PICKER_SAID_MARK, None)
        assert said is None or said.string_value == envoy.exchange.result.misread
        marked = marks.keys() == {REQUEST_TRAILERS_MARK}
        assert marked or not marks
        assert not marked or envoy.request_trailers, "a mark of the picker's"
        common = reply.request_headers.response
        assert common.clear_route_cache == marked
        assert not reply.request_body.response.clear_route_cache
        if marked:
            assert not [
                option.header.key
                for option in common.header_mutation.set_headers
                if option.header.key.startswith(":") or option.header.key == "host"
            ]
        if LB_NAMESPACE in fields:
            assert SERVED not in fields[LB_NAMESPACE].struct_value.fields


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_envoy_is_told_of_members_only(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(FailureMode))
    envoy = conversation(snapshot(mode, table(*MEMBERS)))
    spoofed: dict[str, Any] = (
        {"X_Gateway_Destination_Endpoint": OUTSIDE} if data.draw(st.booleans()) else {}
    )
    messages = [request_headers(**spoofed), body(b"one")]
    messages.append(trailers() if data.draw(st.booleans()) else body(b"two", end=True))
    messages += [response_headers(), body(b"three", end=True, response=True)]
    for message in messages:
        if envoy.finished:
            break
        envoy.send(message)
        for raw in data.draw(st.lists(replies(), max_size=3)):
            envoy.picker(raw)
        if data.draw(st.booleans()):
            envoy.picker(streamed(b"onetwo", end=True))
        envoy.ring(Timer.ENDPOINT)
    envoy.ring(Timer.PICK)
    envoy.do(envoy.exchange.picker_closed(Reason.PICKER_ERROR))
    check(envoy)
    if envoy.exchange.result.outcome in (Outcome.STEERED, Outcome.FAILED_OPEN):
        assert envoy.destination
        assert set(envoy.destination.split(",")) <= set(MEMBERS)


def test_odd_spellings_are_no_endpoints() -> None:
    """But for the spellings of an IPv6 address, which are one address."""
    canonical = {"[2001:db8:0:0:0:0:0:1]:8000", "[2001:DB8::1]:8000"}
    for text in ODD:
        assert parse_endpoint(text) == (V6 if text in canonical else None), text


@given(st.booleans())
def test_an_ipv6_pick_without_brackets_is_read_when_the_table_has_it(spaced: bool) -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE, members=table(A, V6)))
    envoy.send(request_headers(end=True))
    text = f"2001:0db8::1:8000{' ' * spaced},{A}"
    envoy.picker(picked(text))
    assert envoy.destination == f"{V6},{A}"


def test_an_ipv6_pick_without_brackets_that_the_table_lacks_could_be_anything() -> None:
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE, members=table(A, V6), endpoint_wait=0.0))
    envoy.send(request_headers(end=True))
    envoy.picker(picked("2001:db8::2:8000"))
    assert envoy.error == Reason.PICK_MALFORMED


def test_what_the_picker_said_is_quoted_when_it_is_of_no_use() -> None:
    for said, reason, quoted in (
        (OUTSIDE, Reason.PICK_OUTSIDE_POOL, OUTSIDE),
        ("x" * 1000, Reason.PICK_MALFORMED, "…"),
        ("1," * 1000, Reason.PICK_MALFORMED, "1," * 100),
    ):
        envoy = conversation(snapshot(FailureMode.FAIL_CLOSE, endpoint_wait=0.0))
        envoy.send(request_headers(end=True))
        envoy.picker(picked(said))
        assert (envoy.error, envoy.exchange.result.misread) == (reason, quoted)
    envoy = conversation(snapshot(FailureMode.FAIL_CLOSE))
    envoy.send(request_headers(end=True))
    envoy.picker(picked(A))
    assert envoy.exchange.result.misread == ""


@pytest.mark.parametrize("mode", FailureMode)
def test_the_access_log_learns_what_the_picker_said(mode: FailureMode) -> None:
    envoy = conversation(snapshot(mode, endpoint_wait=0.0))
    envoy.send(request_headers(end=True))
    envoy.picker(picked(OUTSIDE))
    [raw] = [a.message for a in envoy.actions if isinstance(a, ToEnvoy)][:1]
    marks = ProcessingResponse.FromString(raw).dynamic_metadata.fields[MARKS_NAMESPACE].struct_value
    assert marks.fields[PICKER_SAID_MARK].string_value == OUTSIDE


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        ("10.0.0.1:8000, [fd00::5]:8000", "10.0.0.1:8000, [fd00::5]:8000"),
        ("http://10.0.0.1:8000/v1", "…://10.0.0.1:8000/…"),
        ("qwen-0.default.svc:8000", "….….…:8000"),
        ("10.0.0.1:s3cr3t-port", "10.0.0.1:…"),
        ("deadbeefdeadbeef", "…"),
    ],
)
def test_only_what_could_be_part_of_an_endpoint_is_quoted(said: str, quoted: str) -> None:
    """A picker may repeat there what a client has sent."""
    assert quotable(said) == quoted
