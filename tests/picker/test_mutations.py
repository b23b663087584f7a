"""Header mutations: what Envoy makes is let through, what it fails a message for is left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_client.errors import LeftOut, MalformedMessage
from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderMutation, ProcessingRequest
from epp_client.picker.mutations import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_HTTP1_RESPONSE_BYTES,
    Omissions,
    Part,
    sanitise,
)
from epp_client.picker.protocol import DESTINATION

Pairs = list[tuple[str, bytes]]

GOOD = {
    "nothing": [],
    "a header": [("x-added", b"yes")],
    "upper case": [("X-Added", b"yes")],
    "an empty value": [("x-empty", b"")],
    "bytes beyond ASCII": [("x-name", "é".encode())],
    "a tab": [("x-tab", b"a\tb")],
    "a large value": [("x-large", b"x" * 50_000)],
    "many": [(f"x-{n}", b"") for n in range(80)],
    "te: trailers, as gRPC has it": [("te", b"trailers")],
    "two values of one name": [("x-a", b"1"), ("x-a", b"2")],
}
BAD: dict[str, tuple[str, bytes, LeftOut | None]] = {
    "two lines": ("x-added", b"a\nb", LeftOut.HEADER_VALUE),
    "a carriage return": ("x-added", b"a\rb", LeftOut.HEADER_VALUE),
    "a zero byte": ("x-added", b"a\x00b", LeftOut.HEADER_VALUE),
    "a delete": ("x-added", b"\x7f", LeftOut.HEADER_VALUE),
    "no name": ("", b"a", LeftOut.HEADER_NAME),
    "a blank in the name": ("x added", b"a", LeftOut.HEADER_NAME),
    "a colon in the name": ("x:added", b"a", LeftOut.HEADER_NAME),
    "a name beyond ASCII": ("xé", b"a", LeftOut.HEADER_NAME),
    "an unknown pseudo-header": (":foo", b"a", LeftOut.PSEUDO_HEADER),
    "connection": ("Connection", b"close", LeftOut.CONNECTION_HEADER),
    "keep-alive": ("keep-alive", b"timeout=5", LeftOut.CONNECTION_HEADER),
    "proxy-connection": ("proxy-connection", b"close", LeftOut.CONNECTION_HEADER),
    "upgrade": ("upgrade", b"websocket", LeftOut.CONNECTION_HEADER),
    "http2-settings": ("http2-settings", b"AAMAAABk", LeftOut.CONNECTION_HEADER),
    "te": ("te", b"gzip", LeftOut.CONNECTION_HEADER),
    "transfer-encoding, which is Envoy's": ("Transfer-Encoding", b"chunked", None),
    "content-length, which is Envoy's": ("content-length", b"7", None),
}
REQUEST_PSEUDO: dict[str, tuple[str, bytes, LeftOut | None]] = {
    "a path": (":path", b"/v1/chat?a=b%20c", None),
    "the path of OPTIONS": (":path", b"*", None),
    "a path with a blank": (":path", b"/a b", LeftOut.HEADER_VALUE),
    "an empty path": (":path", b"", LeftOut.HEADER_VALUE),
    "a relative path": (":path", b"abc", LeftOut.HEADER_VALUE),
    "a path with a control character": (":path", b"/a\x01b", LeftOut.HEADER_VALUE),
    "a method": (":method", b"PUT", None),
    "a method with a blank": (":method", b"P T", LeftOut.HEADER_VALUE),
    "an authority": (":authority", b"[fd99::1]:80", None),
    "a host with a blank": ("host", b"a b", LeftOut.HEADER_VALUE),
    "a status": (":status", b"200", LeftOut.PSEUDO_HEADER),
    "a protocol": (":protocol", b"websocket", LeftOut.PSEUDO_HEADER),
}
STATUSES: dict[bytes, LeftOut | None] = {
    b"200": None,
    b"404": None,
    b"599": None,
    **dict.fromkeys((b"", b"0", b"99", b"101", b"600", b"1000", b"abc"), LeftOut.STATUS),
}
ORIGINAL: Pairs = [(f"x-original-{number}", b"x" * 100) for number in range(20)]


def envoys(part: Part, pairs: Pairs) -> bytes:
    """A message with these headers."""
    message = ProcessingRequest()
    if part is Part.TRAILERS:
        fields = message.response_trailers.trailers
    elif part is Part.RESPONSE:
        fields = message.response_headers.headers
    else:
        fields = message.request_headers.headers
    for key, value in pairs:
        fields.headers.add(key=key, raw_value=value)
    return message.SerializeToString()


def mutation(pairs: Pairs, remove: list[str] | None = None) -> HeaderMutation:
    """A mutation that overwrites."""
    made = HeaderMutation(remove_headers=remove or [])
    for key, value in pairs:
        header = made.set_headers.add().header
        header.key, header.raw_value = key, value
    return made


def sets(made: HeaderMutation) -> Pairs:
    """What a mutation sets."""
    return [(option.header.key, option.header.raw_value) for option in made.set_headers]


def cleaned(
    part: Part, pairs: Pairs, original: Pairs | None = None, remove: list[str] | None = None
) -> tuple[HeaderMutation, Omissions]:
    """A mutation after it was sanitised, and what was counted."""
    made, omissions = mutation(pairs, remove), Omissions()
    raw = (
        b"" if part is Part.IMMEDIATE else envoys(part, ORIGINAL if original is None else original)
    )
    sanitise(made, raw, part, omissions)
    return made, omissions


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("pairs", GOOD.values(), ids=GOOD.keys())
def test_what_envoy_makes_is_left_alone(pairs: Pairs, part: Part) -> None:
    made, omissions = cleaned(part, pairs)
    assert (sets(made), omissions) == (pairs, {})


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize(("key", "value", "what"), BAD.values(), ids=BAD.keys())
def test_what_breaks_http_is_left_out_counted_and_named(
    key: str, value: bytes, what: LeftOut | None, part: Part
) -> None:
    made, omissions = cleaned(part, [("x-a", b"1"), (key, value), ("x-b", b"2")])
    assert sets(made) == [("x-a", b"1"), ("x-b", b"2")]
    assert omissions == ({what: (1, key)} if what is not None else {})


@pytest.mark.parametrize(
    ("key", "value", "what"), REQUEST_PSEUDO.values(), ids=REQUEST_PSEUDO.keys()
)
def test_pseudo_headers_of_a_request(key: str, value: bytes, what: LeftOut | None) -> None:
    made, omissions = cleaned(Part.REQUEST, [(key, value)])
    assert (sets(made), list(omissions)) == (([(key, value)], []) if what is None else ([], [what]))


@pytest.mark.parametrize(("status", "what"), STATUSES.items())
def test_statuses_of_a_response(status: bytes, what: LeftOut | None) -> None:
    made, omissions = cleaned(Part.RESPONSE, [(":status", status)])
    kept = [] if what else [(":status", status)]
    assert (sets(made), list(omissions)) == (kept, [what] if what else [])


@pytest.mark.parametrize("part", [Part.TRAILERS, Part.IMMEDIATE])
@pytest.mark.parametrize("key", [":path", ":status", "host"])
def test_trailers_and_local_answers_have_no_pseudo_headers(key: str, part: Part) -> None:
    made, omissions = cleaned(part, [(key, b"200")])
    assert (sets(made), list(omissions)) == ([], [LeftOut.PSEUDO_HEADER])


def test_blanks_around_a_value_are_no_part_of_it() -> None:
    made, omissions = cleaned(Part.REQUEST, [("x-a", b" \tyes ")])
    assert (sets(made), omissions) == ([("x-a", b"yes")], {})


@pytest.mark.parametrize("part", [Part.REQUEST, Part.RESPONSE])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        (":authority", b"example.test"),
        (":path", b"/with a blank"),
        ("connection", b"upgrade"),
        ("upgrade", b"websocket"),
        ("transfer-encoding", b"chunked"),
    ],
)
def test_what_is_said_again_is_nothing_to_count(key: str, value: bytes, part: Part) -> None:
    made, omissions = cleaned(part, [(key, value)], [(key, value)])
    assert (sets(made), omissions) == ([], {})


@pytest.mark.parametrize("part", [Part.REQUEST, Part.RESPONSE, Part.TRAILERS])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("x y", LeftOut.HEADER_NAME),
        ("x\n", LeftOut.HEADER_NAME),
        ("", LeftOut.HEADER_NAME),
        (":path", LeftOut.PSEUDO_HEADER),
        (":status", LeftOut.PSEUDO_HEADER),
    ],
)
def test_names_that_cannot_be_removed_are_left_out(name: str, what: LeftOut, part: Part) -> None:
    made, omissions = cleaned(part, [], remove=["x-a", name, "x-b"])
    assert list(made.remove_headers) == ["x-a", "x-b"]
    assert omissions == {what: (1, name)}


def test_the_connection_s_headers_cannot_be_removed() -> None:
    names = ["connection", "content-length", "Host", "transfer-encoding", "upgrade", "te"]
    made, omissions = cleaned(Part.REQUEST, [], remove=names)
    assert list(made.remove_headers) == ["te"]
    assert omissions == {LeftOut.CONNECTION_HEADER: (3, "connection")}


def test_of_too_many_names_to_remove_those_stay_that_are_there() -> None:
    names = [f"x-{n}" for n in range(200)] + ["X-Original-3"]
    made, omissions = cleaned(Part.RESPONSE, [], remove=names)
    assert (list(made.remove_headers), omissions) == (["X-Original-3"], {})


def test_a_destination_of_any_size_is_judged_instead() -> None:
    made, _ = cleaned(Part.REQUEST, [(DESTINATION, b"x" * 100_000)])
    assert len(made.set_headers) == 1


# --- the header map as it is afterwards ---


def again(size: int, count: int) -> Pairs:
    """So many headers, of so many bytes together."""
    each = size // count
    return [(f"x-{n:04}", b"v" * (each - 6)) for n in range(count)]


@pytest.mark.parametrize("part", [Part.REQUEST, Part.RESPONSE])
@pytest.mark.parametrize("pairs", [again(30_000, 100), again(60_000, 50)], ids=["100", "60 KB"])
def test_every_header_said_again_changes_nothing(pairs: Pairs, part: Part) -> None:
    made, omissions = cleaned(part, pairs, pairs)
    assert (sets(made), omissions) == ([], {})


@pytest.mark.parametrize("part", [Part.REQUEST, Part.RESPONSE])
def test_every_header_overwritten_is_as_many_as_before(part: Part) -> None:
    pairs = again(30_000, MAX_HEADERS)
    other = [(key, b"other") for key, _ in pairs]
    made, _ = cleaned(part, other, pairs)
    assert sets(made) == other


COUNTED = (Part.REQUEST, Part.RESPONSE, Part.TRAILERS)


@pytest.mark.parametrize("part", COUNTED)
@pytest.mark.parametrize("limit", [MAX_HEADER_BYTES, MAX_HTTP1_RESPONSE_BYTES])
def test_the_bytes_that_envoy_takes(part: Part, limit: int) -> None:
    before = again(1_000, 10)
    raw = envoys(part, before)
    sanitise(mutation([("x", b"v" * (limit - 1_001))]), raw, part, {}, limit)
    with pytest.raises(MalformedMessage):
        sanitise(mutation([("x", b"v" * (limit - 1_000))]), raw, part, {}, limit)


@pytest.mark.parametrize("part", COUNTED)
def test_the_number_that_envoy_takes(part: Part) -> None:
    before = again(1_000, 10)
    cleaned(part, [(f"y-{n}", b"") for n in range(MAX_HEADERS - 10)], before)
    cleaned(part, [(f"y-{n}", b"") for n in range(MAX_HEADERS - 9)], before, ["x-0001"])
    with pytest.raises(MalformedMessage):
        cleaned(part, [(f"y-{n}", b"") for n in range(MAX_HEADERS - 9)], before)


def test_an_envoy_that_takes_more_has_shown_it() -> None:
    before = again(90_000, 150)
    other = [(key, b"other") for key, _ in before]
    assert sets(cleaned(Part.REQUEST, other, before)[0]) == other
    with pytest.raises(MalformedMessage):
        cleaned(Part.REQUEST, [*other, ("one-more", b"")], before)


def test_content_length_does_not_count() -> None:
    before = [*again(1_000, 10), ("content-length", b"7")]
    cleaned(Part.REQUEST, [(f"y-{n}", b"") for n in range(MAX_HEADERS - 10)], before)


def test_the_deprecated_append_adds() -> None:
    before = again(1_000, 10)
    made = mutation([(key, value) for key, value in before for _ in range(9)])
    for option in made.set_headers:
        option.append.value = True
    sanitise(made, envoys(Part.REQUEST, before), Part.REQUEST, {})
    assert len(made.set_headers) == 90
    made.set_headers.add(append={"value": True}).header.key = "x-0000"
    with pytest.raises(MalformedMessage):
        sanitise(made, envoys(Part.REQUEST, before), Part.REQUEST, {})


NAMES = st.sampled_from(["x-a", "X-A", "x-b", "te", "connection", ":path", "host", "bad name"])
VALUES = st.sampled_from([b"", b"1", b"2", b"/p", b"a\nb", b" trailers"])
SETS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=30)


@given(SETS, st.lists(NAMES, max_size=5), st.lists(st.tuples(NAMES, VALUES), max_size=10))
def test_sanitising_twice_changes_nothing_more(
    changes: list[tuple[str, bytes, bool]], remove: list[str], before: Pairs
) -> None:
    original = envoys(Part.REQUEST, before)
    made = mutation([(key, value) for key, value, _ in changes], remove)
    for option, (_, _, append) in zip(made.set_headers, changes, strict=True):
        option.append.value = append
    sanitise(made, original, Part.REQUEST, {})
    once, omissions = made.SerializeToString(), Omissions()
    sanitise(made, original, Part.REQUEST, omissions)
    assert (made.SerializeToString(), omissions) == (once, {})
