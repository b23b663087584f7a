"""The short cuts say what the whole parse says, or nothing at all."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from epp_client.errors import MalformedMessage, Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from epp_client.ext_proc.plain import plain_pick, plain_served
from epp_client.picker.mutations import Part, sanitise
from epp_client.picker.pick import Pick, read_pick
from epp_client.picker.preparation import read_served
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE, SERVED, parse_reply
from epp_client.picker.steering import HeaderReply, destination_reply, steer

LB, KEY, SERVED_KEY = LB_NAMESPACE.encode(), DESTINATION.encode(), SERVED.encode()
PICK = "10.0.0.1:8000"
TEXTS = st.sampled_from(["", PICK, "10.0.0.2:8000", f"{PICK},10.0.0.2:8000"])
NAMES = st.sampled_from([DESTINATION, DESTINATION.upper(), "x-model", ""])


def told(pick: Pick | None) -> tuple[str, Reason | None] | None:
    """What a pick says, for comparing."""
    return None if pick is None else (pick.text, pick.problem)


@st.composite
def header_answers(draw: st.DrawFn) -> bytes:
    """Header answers of all shapes, glued together of parts as protobuf allows: parts merge."""
    parts = b""
    for _ in range(draw(st.integers(1, 3))):
        reply = ProcessingResponse()
        common = reply.request_headers.response
        for name, value, raw in draw(st.lists(st.tuples(NAMES, TEXTS, TEXTS), max_size=2)):
            option = common.header_mutation.set_headers.add()
            option.header.key, option.header.value = name, value
            option.header.raw_value = raw.encode()
        if draw(st.integers(0, 9)) == 0:
            common.clear_route_cache = True
        if draw(st.booleans()):
            namespace = draw(st.sampled_from([LB_NAMESPACE, "other"]))
            fields = reply.dynamic_metadata.fields[namespace].struct_value.fields
            fields[draw(st.sampled_from([DESTINATION, SERVED]))].string_value = draw(TEXTS)
        parts += reply.SerializeToString()
    return parts


@given(header_answers())
def test_a_plain_pick_is_what_the_whole_parse_finds(raw: bytes) -> None:
    text = plain_pick(raw, LB, KEY)
    if text is not None:
        reply = parse_reply(raw)
        assert told(read_pick(reply)) == (text, None)
        assert not reply.request_headers.response.clear_route_cache
        assert len(reply.dynamic_metadata.fields) == 1


@given(header_answers(), TEXTS, st.booleans())
def test_a_header_reply_steers_as_the_whole_parse_does(raw: bytes, text: str, strip: bool) -> None:
    keys, stripped = tuple(text.split(",")), ("x-spoofed",) if strip else ()
    original = ProcessingRequest().SerializeToString()
    reply = HeaderReply(raw, original, {}, headers_only=False)
    assert told(reply.pick) == told(read_pick(parse_reply(raw)))
    cleaned = parse_reply(raw)
    sanitise(cleaned.request_headers.response.header_mutation, original, Part.REQUEST, {})
    whole = parse_reply(steer(cleaned, keys, stripped))
    assert parse_reply(reply.steered(keys, stripped)) == whole


def test_the_usual_answers_are_plain() -> None:
    """Else the short cut would be one in name only."""
    assert plain_pick(destination_reply((PICK,), ()), LB, KEY) == PICK
    message = ProcessingRequest()
    message.response_headers.headers.headers.add(key=":status", raw_value=b"200")
    fields = message.metadata_context.filter_metadata[LB_NAMESPACE].fields
    fields[DESTINATION].string_value = PICK
    fields[SERVED].string_value = PICK
    assert plain_served(message.SerializeToString(), LB, SERVED_KEY) == PICK


@given(st.lists(st.tuples(st.sampled_from([LB_NAMESPACE, "o"]), NAMES, TEXTS), max_size=4))
def test_a_served_endpoint_is_what_the_whole_parse_finds(
    entries: list[tuple[str, str, str]],
) -> None:
    message = ProcessingRequest()
    message.response_headers.end_of_stream = True
    for namespace, name, text in entries:
        fields = message.metadata_context.filter_metadata[namespace].fields
        fields[SERVED if name == "x-model" else name].string_value = text
    raw = message.SerializeToString()
    found = message.metadata_context.filter_metadata
    served = None
    if LB_NAMESPACE in found and SERVED in found[LB_NAMESPACE].fields:
        served = found[LB_NAMESPACE].fields[SERVED].string_value
    assert plain_served(raw, LB, SERVED_KEY) == served
    assert read_served(raw) == (served, raw)


def test_a_served_endpoint_that_is_no_text_is_malformed() -> None:
    message = ProcessingRequest()
    message.response_headers.end_of_stream = True
    message.metadata_context.filter_metadata[LB_NAMESPACE].fields[SERVED].string_value = PICK
    raw = message.SerializeToString().replace(b"10.0", b"\xff\xfe..")
    with pytest.raises(MalformedMessage):
        read_served(raw)


# a field without a number
@example(b"", 57, 0)
@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
def test_noise_is_refused_or_read_never_a_crash(noise: bytes, at: int, byte: int) -> None:
    broken = bytearray(destination_reply((PICK,), ()))
    broken[at % len(broken)] = byte
    for raw in (noise, bytes(broken)):
        text = plain_pick(raw, LB, KEY)
        if text is not None:
            assert told(read_pick(parse_reply(raw))) == (text, None)
