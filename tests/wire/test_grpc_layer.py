"""gRPC's own layer, and header blocks: pure values."""

from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_client.wire.http2.frames import ConnectionFault, ErrorCode
from epp_client.wire.http2.grpc import (
    MAX_MESSAGE,
    GrpcFault,
    MessageReader,
    decode_message,
    encode_message,
    is_grpc_content_type,
    parse_timeout,
    status_of_http,
    status_of_reset,
)
from epp_client.wire.http2.headers import HeaderReader, Malformed, check_trailers, literals


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 50), min_size=1))
def test_any_split_gives_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(b"\0" + len(m).to_bytes(4) + m for m in messages)
    reader, got, position, turn = MessageReader(), [], 0, 0
    while position < len(data):
        stop = min(len(data), position + cuts[turn % len(cuts)])
        got += reader.feed(data, position, stop)
        position, turn = stop, turn + 1
    assert got == messages
    assert reader.idle


@pytest.mark.parametrize(
    ("prefix", "code"),
    [(b"\1\0\0\0\0", 12), (b"\0" + (MAX_MESSAGE + 1).to_bytes(4), 8)],
)
def test_compressed_and_monstrous_messages_are_refused(prefix: bytes, code: int) -> None:
    with pytest.raises(GrpcFault) as fault:
        MessageReader().feed(prefix, 0, 5)
    assert fault.value.status.code == code


@given(st.text())
def test_status_messages_survive(text: str) -> None:
    encoded = encode_message(text)
    assert encoded.isascii()
    assert encoded.isprintable() or not encoded
    assert decode_message(encoded) == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1S", 1.0),
        ("250m", 0.25),
        ("2H", 7200.0),
        ("7u", 7e-06),
        ("", None),
        ("S", None),
        ("1x", None),
        ("123456789S", None),
        ("-1S", None),
        ("1.5S", None),
    ],
)
def test_timeouts(value: str, seconds: float | None) -> None:
    assert parse_timeout(value) == seconds


@pytest.mark.parametrize(
    ("value", "yes"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc;x=y", True),
        ("application/grpc-web", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_content_types(value: str, yes: bool) -> None:
    assert is_grpc_content_type(value) is yes


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.REFUSED_STREAM, 14),
        (ErrorCode.CANCEL, 1),
        (ErrorCode.ENHANCE_YOUR_CALM, 8),
        (ErrorCode.PROTOCOL_ERROR, 13),
        (153, 13),
    ],
)
def test_resets_become_statuses(code: int, status: int) -> None:
    assert status_of_reset(code).code == status


def test_http_statuses_become_grpc_statuses() -> None:
    assert [status_of_http(c).code for c in (400, 401, 403, 404, 429, 503, 500)] == [
        *(13, 16, 7, 12, 14, 14, 2)
    ]


@given(st.lists(st.tuples(st.from_regex(r"[a-z-]{1,20}", fullmatch=True), st.just("v" * 300))))
def test_hpack_reads_our_literals(fields: list[tuple[str, str]]) -> None:
    found: list[Any] = [tuple(f) for f in hpack.Decoder(1 << 20).decode(literals(fields))]
    assert found == fields


@pytest.mark.parametrize(
    "field",
    [
        (b":status", b"200"),
        (b"Upper", b"x"),
        (b"connection", b"close"),
        (b"te", b"gzip"),
        (b"a b", b"x"),
        (b"a", b"x\r\ny: z"),
        (b"a", b" x"),
        (b"", b"x"),
    ],
)
def test_malformed_trailers(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(Malformed):
        check_trailers([field])


def tableless_reader() -> HeaderReader:
    reader = HeaderReader()
    reader.table_forbidden()
    assert reader.fields(b"\x20") == []
    return reader


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b":path", b"content-type", b"x-a", b"traceparent"]),
            st.binary(max_size=200),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_stateless_blocks_are_read_as_hpack_reads_them(
    fields: list[tuple[bytes, bytes]], huffman: bool
) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    reader = tableless_reader()
    for _ in range(2):
        assert reader.fields(encoder.encode(fields, huffman=huffman)) == fields


@given(st.binary(max_size=60))
def test_stateless_garbage_is_refused_exactly_when_hpack_refuses_it(block: bytes) -> None:
    decoder = hpack.Decoder(64 * 1024)
    decoder.max_allowed_table_size = 0
    decoder.header_table_size = 0
    try:
        expected = [(bytes(n), bytes(v)) for n, v in decoder.decode(block, raw=True)]
    except (hpack.HPACKError, IndexError):
        with pytest.raises(ConnectionFault):
            tableless_reader().fields(block)
    else:
        assert tableless_reader().fields(block) == expected
