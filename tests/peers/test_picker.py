"""The reference picker spoken to as Envoy would, one dialect at a time."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from grpc import aio

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from epp_client.picker.client import PROCESS
from epp_client.picker.protocol import (
    DESTINATION,
    LB_NAMESPACE,
    SERVED,
    SUBSET,
    SUBSET_NAMESPACE,
)
from testbed.conversation import Record, as_go_writes
from testbed.dialects import DIALECTS
from testbed.picker import HEALTH_CHECK, start_picker
from testbed.steps import OVERSIZED

A, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8001"
BODY = b'{"model": "public-name", "prompt": "' + b"x" * 130_000 + b'"}'
REPLY = (b"Hello ", b"world", b"")


@dataclass
class Seen:
    """What came back on one stream."""

    replies: list[ProcessingResponse] = field(default_factory=list)
    garbage: list[bytes] = field(default_factory=list)
    status: grpc.StatusCode = grpc.StatusCode.UNKNOWN

    @property
    def kinds(self) -> list[str]:
        """The kinds of replies in order, runs of one kind once."""
        kinds = [str(reply.WhichOneof("response")) for reply in self.replies]
        return [kind for i, kind in enumerate(kinds) if kinds[i - 1 : i] != [kind]]

    def body(self, phase: str) -> bytes:
        """All streamed body of a phase."""
        parts = [getattr(r, phase) for r in self.replies if r.WhichOneof("response") == phase]
        return b"".join(p.response.body_mutation.streamed_response.body for p in parts)

    @property
    def header(self) -> str | None:
        """The destination in the header mutation."""
        for option in self._mutation("request_headers"):
            if option.header.key == DESTINATION:
                raw: bytes = option.header.raw_value or option.header.value.encode()
                return raw.decode()
        return None

    @property
    def metadata(self) -> str | None:
        """The destination in the dynamic metadata."""
        for reply in self.replies:
            if LB_NAMESPACE in reply.dynamic_metadata.fields:
                lb = reply.dynamic_metadata.fields[LB_NAMESPACE].struct_value
                return lb.fields[DESTINATION].string_value
        return None

    def _mutation(self, phase: str) -> list[Any]:
        return [
            option
            for reply in self.replies
            for option in getattr(reply, phase).response.header_mutation.set_headers
        ]

    def set_headers(self, phase: str) -> dict[str, bytes]:
        return {o.header.key: o.header.raw_value for o in self._mutation(phase)}


def request_headers(end: bool, subset: Any = None, **headers: str) -> ProcessingRequest:
    message = ProcessingRequest()
    message.request_headers.end_of_stream = end
    for key, value in headers.items():
        header = message.request_headers.headers.headers.add()
        header.key, header.raw_value = key.replace("_", "-"), value.encode()
    if subset is not None:
        message.metadata_context.filter_metadata[SUBSET_NAMESPACE].update({SUBSET: subset})
    return message


def body(phase: str, content: bytes, end: bool) -> ProcessingRequest:
    message = ProcessingRequest()
    part = getattr(message, phase)
    part.body, part.end_of_stream = content, end
    return message


def response_messages() -> list[ProcessingRequest]:
    head = ProcessingRequest()
    head.response_headers.SetInParent()
    head.metadata_context.filter_metadata[LB_NAMESPACE].update({SERVED: B})
    last = ProcessingRequest()
    last.response_trailers.SetInParent()
    return [head, *(body("response_body", part, part == b"") for part in REPLY), last]


@asynccontextmanager
async def picker(*dialects: str, **how: Any) -> AsyncIterator[str]:
    server, address = await start_picker("127.0.0.1:0", [A, B, C], dialects=dialects, **how)
    try:
        yield address
    finally:
        await server.stop(0)


async def converse(
    address: str, messages: list[ProcessingRequest], *, half_close: bool = True
) -> Seen:
    """Send everything and read to the end of the stream, which has to come."""

    async def sent() -> AsyncIterator[bytes]:
        for message in messages:
            yield message.SerializeToString()
        if not half_close:
            await asyncio.Event().wait()

    seen = Seen()
    options = [("grpc.max_receive_message_length", -1)]
    async with aio.insecure_channel(address, options=options) as channel:
        call = channel.stream_stream(PROCESS)(sent())
        try:
            async with asyncio.timeout(60):
                async for raw in call:
                    try:
                        seen.replies.append(ProcessingResponse.FromString(raw))
                    except DecodeError:
                        seen.garbage.append(raw)
        except aio.AioRpcError as error:
            seen.status = error.code()
        else:
            seen.status = await call.code()
    return seen


async def ask(
    *dialects: str, subset: object = None, sent: int | None = None, **headers: str
) -> Seen:
    """One whole POST through a picker of these dialects; with `sent`, only so many messages of it.

    A picker that ends the stream is sent nothing after the message that makes it do so: grpcio
    reports INTERNAL for whatever status meets a write on its way.
    """
    messages = [request_headers(False, subset, **headers)]
    messages += [body("request_body", BODY, False), body("request_body", b"", True)]
    messages += response_messages()
    async with picker(*dialects) as address:
        return await converse(address, messages[:sent], half_close=sent is None)


REQUEST = ["request_headers", "request_body"]
RESPONSE = ["response_headers", "response_body", "response_trailers"]
OK, INTERNAL, ABORTED = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED
LWEPP = ["request_body", "request_headers", "request_body", *RESPONSE[:2]]
AFTER = [*REQUEST, "response_headers"]
Expectation = tuple[list[str], grpc.StatusCode, Callable[[Seen], bool]]


def anything(_: Seen) -> bool:
    return True


def whole(seen: Seen) -> bool:
    return seen.body("request_body") == BODY and seen.body("response_body") == b"Hello world"


def repeating(seen: Seen) -> bool:
    headers = seen.set_headers("request_headers")
    body = seen.body("request_body") == as_go_writes(json.loads(BODY))
    return body and headers["test-epp-endpoint-selection"] == B.encode()


def picked(text: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.header == seen.metadata == text


TABLE: dict[str, Expectation] = {
    "pick-after-body": ([*REQUEST, *RESPONSE], OK, whole),
    "pick-with-headers": ([*REQUEST, *RESPONSE], OK, whole),
    "streaming": ([*REQUEST, *RESPONSE], OK, whole),
    "body-before-headers": (["request_body", "request_headers", *RESPONSE], OK, whole),
    "common-response": (LWEPP, OK, lambda s: not s.body("request_body")),
    "rewrite-body": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: s.body("request_body") == BODY.replace(b"public-name", b"adapter-name"),
    ),
    "replace-body": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: s.body("request_body") == b"other" * 9 and len(s.replies) > 8,
    ),
    "chunked": ([*REQUEST, *RESPONSE], OK, lambda s: whole(s) and len(s.replies) > 10),
    "close-after-pick": (REQUEST, OK, lambda s: s.body("request_body") == BODY),
    "ignore-trailers": ([*REQUEST, *RESPONSE[:2]], OK, whole),
    "llm-d-0.10": ([*REQUEST, *RESPONSE], OK, repeating),
    "gaie-1.5": ([*REQUEST, *RESPONSE], OK, repeating),
    "lwepp-1.6": (LWEPP, OK, lambda s: not s.body("request_body")),
    "gaie-1.2": ([*REQUEST, *RESPONSE[:2]], OK, repeating),
    "silent-response": (REQUEST, OK, anything),
    "slow": ([*REQUEST, *RESPONSE], OK, whole),
    "mutate": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: (
            s.set_headers("request_headers")["x-picker-added"] == b"yes"
            and s.set_headers("response_headers")["x-picker-response"] == b"yes"
            and s.body("response_body") == b"Bonjour world"
        ),
    ),
    "rewrite-response": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: s.body("response_body") == b"Bonjour world",
    ),
    "raw-value": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: s.set_headers("request_headers")[DESTINATION] != b"",
    ),
    "value": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: s.set_headers("request_headers")[DESTINATION] == b"" and bool(s.header),
    ),
    "header-only": ([*REQUEST, *RESPONSE], OK, lambda s: bool(s.header) and s.metadata is None),
    "metadata-only": ([*REQUEST, *RESPONSE], OK, lambda s: bool(s.metadata) and s.header is None),
    "disagree": ([*REQUEST, *RESPONSE], OK, lambda s: s.header != s.metadata),
    "pick-list": ([*REQUEST, *RESPONSE], OK, picked("a,b")),
    "pick-hostname": ([*REQUEST, *RESPONSE], OK, picked("pod-a.default.svc:8000")),
    "pick-no-port": ([*REQUEST, *RESPONSE], OK, picked("10.0.0.2")),
    "pick-empty": ([*REQUEST, *RESPONSE], OK, picked("")),
    "pick-10000": ([*REQUEST, *RESPONSE], OK, picked(",".join([B] * 10_000))),
    "pick-unicode": ([*REQUEST, *RESPONSE], OK, picked("１２7.0.0.1:8000")),
    "pick-outside": ([*REQUEST, *RESPONSE], OK, picked("127.0.0.77:9")),
    "pick-none": ([*REQUEST, *RESPONSE], OK, lambda s: s.header is None and s.metadata is None),
    "refuse-429": (
        ["immediate_response", *RESPONSE],
        OK,
        lambda s: s.replies[0].immediate_response.status.code == 429,
    ),
    "refuse-503": (
        ["immediate_response", *RESPONSE],
        OK,
        lambda s: s.replies[0].immediate_response.status.code == 503,
    ),
    "refuse-at-response": ([*REQUEST, "immediate_response", *RESPONSE[1:]], OK, anything),
    "silent": ([], OK, anything),
    "close-before-pick": ([], OK, anything),
    "no-endpoints-status": ([], INTERNAL, anything),
    "garbage-bytes": ([*RESPONSE], OK, lambda s: len(s.garbage) >= 1),
    "wrong-order": (["response_body", *REQUEST, *RESPONSE], OK, anything),
    "drip": ([*REQUEST, *RESPONSE], OK, anything),
    "ranked": ([*REQUEST, *RESPONSE], OK, lambda s: bool(s.header) and s.header == s.metadata),
    "invalid-mutation": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: b"\n" in s.set_headers("request_headers")["x-picker-invalid"],
    ),
    "invalid-response-mutation": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: "x picker invalid" in s.set_headers("response_headers"),
    ),
    "too-many-headers": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: len(s.set_headers("response_headers")) > 90,
    ),
    "duplicate-replies": ([*REQUEST, *RESPONSE], OK, lambda s: len(s.replies) > 8),
    "die-mid-body": (REQUEST, ABORTED, lambda s: s.body("request_body") == BODY[: len(BODY) // 2]),
    "die-mid-response": (AFTER, ABORTED, lambda s: s.body("response_body") == b""),
    "error-mid-response": (
        [*AFTER, "response_body"],
        INTERNAL,
        lambda s: s.body("response_body") == b"Hello ",
    ),
    "oversized-mutation": (
        [*REQUEST, *RESPONSE],
        OK,
        lambda s: len(s.set_headers("request_headers")["x-picker-oversized"]) == OVERSIZED,
    ),
}


ENDS_AFTER = {
    "close-before-pick": 1,
    "no-endpoints-status": 1,
    "close-after-pick": 3,
    "die-mid-body": 3,
    "die-mid-response": 5,
    "error-mid-response": 6,
}
"""Messages after which these dialects end the stream by themselves."""


def test_every_dialect_is_in_the_table() -> None:
    assert TABLE.keys() == DIALECTS.keys()


@pytest.mark.parametrize("dialect", TABLE)
async def test_what_a_dialect_answers(dialect: str) -> None:
    kinds, status, fact = TABLE[dialect]
    seen = await ask(
        dialect,
        sent=ENDS_AFTER.get(dialect),
        test_epp_endpoint_selection=B,
        x_picker_list="a,b",
        x_picker_delay_ms="1",
    )
    assert (seen.kinds, seen.status) == (kinds, status)
    assert fact(seen)


async def test_body_answers_stay_below_the_chunk_size() -> None:
    seen = await ask("pick-after-body")
    parts = [r.request_body.response.body_mutation.streamed_response for r in seen.replies]
    assert max(len(part.body) for part in parts) <= 64_000


async def test_dialects_combine_and_a_request_may_ask_for_its_own() -> None:
    seen = await ask("refuse-429", x_picker_dialect="rewrite-body,body-before-headers, value")
    assert seen.kinds == ["request_body", "request_headers", *RESPONSE]
    assert b"adapter-name" in seen.body("request_body")
    assert seen.set_headers("request_headers")[DESTINATION] == b""


async def test_an_unknown_dialect_is_an_error_and_no_pick() -> None:
    seen = await ask(sent=1, x_picker_dialect="esperanto")
    assert (seen.replies, seen.status) == ([], grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    ("wanted", "subset", "pick"),
    [
        ("10.0.0.3", None, C),
        (f"{B},{A}", None, f"{B},{A}"),
        (A, [A, B], A),
        (f"{A},{C}", [C, B], C),
        (A, f"{C}, {A}", A),
    ],
)
async def test_picks_are_steered_within_the_subset(wanted: str, subset: object, pick: str) -> None:
    seen = await ask(subset=subset, test_epp_endpoint_selection=wanted)
    assert (seen.header, seen.metadata) == (pick, pick)


@pytest.mark.parametrize("subset", [["192.0.2.1:1"], "192.0.2.1:1", []])
async def test_a_subset_with_nothing_eligible_is_answered_503(subset: object) -> None:
    seen = await ask(subset=subset)
    assert seen.replies[0].immediate_response.status.code == 503


async def test_round_robin_and_a_request_without_a_body() -> None:
    async with picker() as address:
        answers = [await converse(address, [request_headers(True)]) for _ in range(3)]
    assert {seen.header for seen in answers} == {A, B, C}
    assert {tuple(seen.kinds) for seen in answers} == {("request_headers",)}


async def test_the_served_endpoint_goes_into_the_response() -> None:
    seen = await ask()
    echo = seen.set_headers("response_headers")["x-conformance-test-served-endpoint"]
    assert echo == B.encode()


async def test_what_the_picker_saw_is_recorded() -> None:
    records: asyncio.Queue[Record] = asyncio.Queue()
    messages = [request_headers(False, [A, B], x_more="1"), body("request_body", BODY, True)]
    async with picker(on_record=records.put_nowait) as address:
        await converse(address, messages + response_messages())
        async with asyncio.timeout(60):
            record = await records.get()
    assert record.headers == {"x-more": "1"}
    assert record.subset == (A, B)
    assert record.pick in (A, B)
    assert record.served == B
    assert record.body_sha256 == hashlib.sha256(BODY).hexdigest()
    assert record.response_body_sha256 == hashlib.sha256(b"Hello world").hexdigest()
    assert record.phases == [*REQUEST, *RESPONSE]


async def test_health_is_answered_for_known_services_only() -> None:
    async with picker() as address, aio.insecure_channel(address) as channel:
        check = channel.unary_unary(HEALTH_CHECK)
        assert await check(b"") == b"\x08\x01"
        assert await check(b"\x0a\x09readiness") == b"\x08\x01"
        with pytest.raises(aio.AioRpcError) as refused:
            await check(b"\x0a\x07unknown")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
