"""What pickers say, one case or more for every field of their answers, and what is to come of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from epp_client.ext_proc.pb.ext_proc_pb2 import (
    HeaderMutation,
    ProcessingResponse,
    StreamedBodyResponse,
)
from tests.e2e.answers import CHUNKED_ANSWER, OK_BODY, Edit, Pairs

NO_CONTENT = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
PICK, BODY = "request_headers", "request_body"
RESPONSE, RESPONSE_BODY = "response_headers", "response_body"


def at(kind: str, change: Callable[[ProcessingResponse], object]) -> Edit:
    """Change the picker's answer of one kind."""

    def edit(said: str, reply: ProcessingResponse) -> None:
        if said == kind:
            change(reply)

    return edit


def only(kind: str, change: Callable[[ProcessingResponse], object]) -> Edit:
    """Change one answer, and say nothing more of its direction."""
    direction = kind.partition("_")[0]

    def edit(said: str, reply: ProcessingResponse) -> list[ProcessingResponse] | None:
        if said == kind:
            change(reply)
        elif said.startswith(direction):
            return []
        return None

    return edit


def before(kind: str, change: Callable[[ProcessingResponse], object]) -> Edit:
    """Say something more before the answer of one kind."""

    def edit(said: str, reply: ProcessingResponse) -> list[ProcessingResponse] | None:
        if said != kind:
            return None
        first = ProcessingResponse()
        change(first)
        return [first, reply]

    return edit


def instead(kind: str, *said: Callable[[ProcessingResponse], object]) -> Edit:
    """Say other things in place of the answer of one kind, and nothing more."""

    def edit(now: str, reply: ProcessingResponse) -> list[ProcessingResponse] | None:
        if now == kind:
            made = [ProcessingResponse() for _ in said]
            for message, change in zip(made, said, strict=True):
                change(message)
            return made
        rest = now != PICK and now.startswith(kind.partition("_")[0])
        return [] if rest else None

    return edit


def mutation_of(reply: ProcessingResponse) -> HeaderMutation:
    kind = str(reply.WhichOneof("response"))
    if kind == "immediate_response":
        return reply.immediate_response.headers
    part = getattr(reply, kind)
    mutation: HeaderMutation = (
        part.header_mutation if "trailers" in kind else part.response.header_mutation
    )
    return mutation


def sets(*pairs: tuple[str, bytes], **option: Any) -> Callable[[ProcessingResponse], None]:
    """Set headers; `option`: further fields of each HeaderValueOption."""

    def change(reply: ProcessingResponse) -> None:
        for key, value in pairs:
            made = mutation_of(reply).set_headers.add(**option)
            made.header.key, made.header.raw_value = key, value

    return change


def removes(*names: str) -> Callable[[ProcessingResponse], None]:
    return lambda reply: mutation_of(reply).remove_headers.extend(names)


def common(kind: str, **values: Any) -> Callable[[ProcessingResponse], None]:
    """Set fields of the CommonResponse; those of the body mutation are named `body__FIELD`."""

    def change(reply: ProcessingResponse) -> None:
        response = getattr(reply, kind).response
        for name, value in values.items():
            if name.startswith("body__"):
                setattr(response.body_mutation, name.removeprefix("body__"), value)
            else:
                setattr(response, name, value)

    return change


def immediate(
    status: int | None, *pairs: tuple[str, bytes], body: bytes = b"no", **more: Any
) -> Callable[[ProcessingResponse], None]:
    def change(reply: ProcessingResponse) -> None:
        reply.immediate_response.SetInParent()
        if status is not None:
            reply.immediate_response.status.code = status
        reply.immediate_response.body = body
        reply.immediate_response.details = more.get("details", "")
        if "grpc" in more:
            reply.immediate_response.grpc_status.status = more["grpc"]
        sets(*pairs)(reply)

    return change


def streamed_headers(*pairs: tuple[str, bytes]) -> Callable[[ProcessingResponse], None]:
    def change(reply: ProcessingResponse) -> None:
        headers = reply.streamed_immediate_response.headers_response.headers.headers
        for key, value in pairs:
            headers.add(key=key, raw_value=value)

    return change


def streamed_body(payload: bytes, end: bool) -> Callable[[ProcessingResponse], None]:
    def change(reply: ProcessingResponse) -> None:
        part = reply.streamed_immediate_response.body_response
        part.body, part.end_of_stream = payload, end

    return change


def streamed_trailers(*pairs: tuple[str, bytes]) -> Callable[[ProcessingResponse], None]:
    def change(reply: ProcessingResponse) -> None:
        for key, value in pairs:
            headers = reply.streamed_immediate_response.trailers_response.headers
            headers.add(key=key, raw_value=value)

    return change


def more_time(reply: ProcessingResponse) -> None:
    reply.override_message_timeout.seconds = 5


@dataclass
class Case:
    """One thing that a picker says."""

    row: str
    """The row of `FIELDS` that it shows."""
    name: str
    edit: Edit
    asks: dict[str, Any] = field(default_factory=dict)
    same: bool = True
    """Whether the outcome is that of Envoy alone."""
    status: int = 200
    close: int | None = None
    """The status under FailClose, where it is another."""
    start: str | None = None
    """The request line that the model server gets."""
    upstream: dict[str, str | None] = field(default_factory=dict)
    """Headers that the model server gets."""
    payload: bytes | None = b"hello"
    """The body that the model server gets; None: it gets no request."""
    headers: dict[str, str | None] = field(default_factory=dict)
    """Headers that the client gets."""
    body: bytes = OK_BODY
    joined: bytes | None = None
    """The same where it depends on whether the end comes to the picker with the body, as with our own
    transport."""


# A row is a line, however long.
# fmt: off
def cases() -> Iterator[Case]:
    """All of them."""
    message, option = "ProcessingResponse", "HeaderValueOption"
    yield Case(f"{message}.request_headers", "plain", lambda _, __: None)
    yield Case(f"{message}.response_headers", "no body", lambda _, __: None, {"answer": NO_CONTENT}, body=b"")
    yield Case(f"{message}.request_body", "no body", lambda _, __: None, {"body": None}, payload=b"")
    yield Case(f"{message}.response_body", "chunked", lambda _, __: None, {"answer": CHUNKED_ANSWER})
    yield Case("HeadersResponse.response", "unset", at(RESPONSE, lambda r: r.response_headers.ClearField("response")))
    yield Case("BodyResponse.response", "two answers more", before(RESPONSE_BODY, common(RESPONSE_BODY, body__clear_body=True)), same=False, joined=b"")
    for kind in (PICK, BODY, RESPONSE, RESPONSE_BODY):
        for name in ("mode_override", "request_drain"):
            value: dict[str, Any] = {"mode_override": {}} if name == "mode_override" else {name: True}
            said = at(kind, lambda r, value=value: r.MergeFrom(ProcessingResponse(**value)))
            yield Case(f"{message}.{name}", kind, said)
        timeout = f"{message}.override_message_timeout"
        yield Case(timeout, f"before {kind}", before(kind, more_time))
        yield Case(timeout, f"beside {kind}", at(kind, more_time), same=False)
    yield Case(f"{message}.dynamic_metadata", "no struct", at(RESPONSE, lambda r: r.dynamic_metadata.update({"envoy.lb": "x"})))

    # CommonResponse
    replace: dict[str, Any] = {"status": 1, "body__body": b"replaced"}
    status = "CommonResponse.status"
    yield Case(status, "unknown", at(PICK, common(PICK, status=7)))
    yield Case(status, "the request's body is replaced", only(PICK, common(PICK, **replace)), payload=b"replaced")
    yield Case(status, "a long body is replaced", only(PICK, common(PICK, **replace)), {"body": b"z" * 2_000_000}, payload=b"replaced")
    yield Case(status, "a body is cleared", only(PICK, common(PICK, status=1, body__clear_body=True)), payload=b"")
    yield Case(status, "a request without a body gets one", at(PICK, common(PICK, **replace)), {"body": None}, payload=b"replaced")
    yield Case(status, "the body is replaced and answered", at(PICK, common(PICK, **replace)), same=False, payload=b"replaced")
    yield Case(status, "nothing replaces the request's body", only(PICK, common(PICK, status=1)), same=False)
    yield Case(status, "nothing replaces a body that is answered", at(PICK, common(PICK, status=1)), same=False)
    yield Case(status, "the response's body is replaced", only(RESPONSE, common(RESPONSE, **replace)), body=b"replaced")
    yield Case(status, "an empty response gets a body", at(RESPONSE, common(RESPONSE, **replace)), {"answer": NO_CONTENT}, body=b"replaced")
    yield Case(status, "nothing replaces the response's body", only(RESPONSE, common(RESPONSE, status=1)), same=False)
    yield Case(status, "in an answer to a body", at(BODY, common(BODY, status=1)))
    yield Case(status, "in an answer to a response's body", at(RESPONSE_BODY, common(RESPONSE_BODY, status=1)))
    for kind in (BODY, RESPONSE_BODY):
        yield Case("CommonResponse.header_mutation", f"bad in {kind}", at(kind, sets(("x late", b"1"))))
    for kind in (PICK, RESPONSE):
        yield Case("CommonResponse.body_mutation", f"without a status in {kind}", at(kind, common(kind, body__body=b"x")))
        yield Case("CommonResponse.trailers", kind, at(kind, lambda r, k=kind: getattr(r, k).response.trailers.headers.add(key="x-t", raw_value=b"1")))
        yield Case("CommonResponse.clear_route_cache", kind, at(kind, common(kind, clear_route_cache=True)))

    # BodyMutation
    cleared = common(BODY, body__clear_body=True)
    yield Case("BodyMutation.body", "then none", instead(BODY, common(BODY, body__body=b"other"), cleared), same=False, payload=b"other")
    yield Case("BodyMutation.clear_body", "false", at(BODY, common(BODY, body__clear_body=False)), same=False)
    yield Case("BodyMutation.clear_body", "false for a response", at(RESPONSE_BODY, common(RESPONSE_BODY, body__clear_body=False)), same=False)
    yield Case("BodyMutation.clear_body", "twice", instead(BODY, cleared, cleared), same=False, payload=b"")
    for name in ("end_of_stream_without_message", "grpc_message_compressed"):
        for kind in (BODY, RESPONSE_BODY):
            yield Case(f"StreamedBodyResponse.{name}", kind, at(kind, lambda r, k=kind, n=name: setattr(getattr(r, k).response.body_mutation.streamed_response, n, True)))
    yield Case("BodyMutation.streamed_response", "another body", at(BODY, lambda r: setattr(r.request_body.response.body_mutation.streamed_response, "body", b"other")), payload=b"other")
    yield Case("StreamedBodyResponse.body", "of a response", at(RESPONSE_BODY, lambda r: setattr(r.response_body.response.body_mutation.streamed_response, "body", r.response_body.response.body_mutation.streamed_response.body.upper())), body=OK_BODY.upper())
    yield Case("StreamedBodyResponse.end_of_stream", "twice", before(BODY, lambda r: r.request_body.response.body_mutation.streamed_response.MergeFrom(StreamedBodyResponse(body=b"hello", end_of_stream=True))), same=False)

    # HeaderMutation
    remove = "HeaderMutation.remove_headers"
    asks: dict[str, Any] = {"headers": [("x-old", "0"), ("te", "trailers")]}
    yield Case(remove, "a header", at(PICK, removes("X-Old")), asks, upstream={"x-old": None})
    for name in (":path", ":method", ":authority", "host", "connection", "content-length", "transfer-encoding", ""):
        yield Case(remove, f"{name or 'no name'} of a request", at(PICK, removes(name)))
    for name in ("x y", "x\n"):
        yield Case(remove, f"{name!r} of a request", at(PICK, removes(name, "x-old")), asks, same=False, upstream={"x-old": None})
        yield Case(remove, f"{name!r} of a response", at(RESPONSE, removes(name, "x-model")), same=False, headers={"x-model": None})
    yield Case(remove, "a header of a response", at(RESPONSE, removes("x-model", ":status", "connection")), headers={"x-model": None})
    many = [f"x-{n}" for n in range(200)]
    yield Case(remove, "too many of a request", at(PICK, removes(*many, "x-old")), asks, same=False, upstream={"x-old": None})
    yield Case(remove, "too many of a response", at(RESPONSE, removes(*many, "x-model")), same=False, headers={"x-model": None})
    set_headers = "HeaderMutation.set_headers"
    fit = [(f"y-{n}", b"1") for n in range(90)]
    yield Case(set_headers, "as many as Envoy takes", at(PICK, sets(*fit)), upstream={"y-89": "1"})
    yield Case(set_headers, "more than Envoy takes", at(PICK, sets(*fit, *((f"z-{n}", b"1") for n in range(9)))), same=False, close=503, upstream={"y-1": None})
    yield Case(set_headers, "60 KB", at(PICK, sets(("y", b"1" * 60_500))), upstream={"y": "1" * 60_500})
    yield Case(set_headers, "62 KB", at(PICK, sets(("y", b"1" * 62_000))), same=False, close=503, upstream={"y": None})
    yield Case(set_headers, "one name 120 times", at(PICK, sets(*([("y", b"1")] * 120))), same=False, upstream={"y": "1"})
    yield Case(set_headers, "80 KB in a response", at(RESPONSE, sets(("y", b"1" * 80_000))), headers={"y": "1" * 80_000})
    yield Case(set_headers, "85 KB in a response", at(RESPONSE, sets(("y", b"1" * 85_000))), same=False, headers={"y": None})
    yield Case(set_headers, "more in a response than Envoy takes", at(RESPONSE, sets(*fit, *((f"z-{n}", b"1") for n in range(9)))), same=False, headers={"y-1": None})

    # HeaderValueOption, HeaderValue
    header = f"{option}.header"
    for path in (b"/a b", b"/a\x01b", b"", b"abc"):
        yield Case(header, f":path {path!r}", at(PICK, sets((":path", path), ("x-a", b"1"))), same=False, upstream={"x-a": "1"})
    yield Case(header, "another :path", at(PICK, sets((":path", b"/v2?b=%20"))), start="POST /v2?b=%20 HTTP/1.1")
    for key, text in ((":method", b"PUT"), (":authority", b"x.y"), ("host", b"x.y"), (":scheme", b"https"), ("x-envoy-foo", b"1")):
        yield Case(header, f"{key}, which Envoy ignores", at(PICK, sets((key, text))))
    for key, text in (("connection", b"close"), ("connection", b"upgrade"), ("upgrade", b"websocket"), ("keep-alive", b"timeout=5"), ("proxy-connection", b"close"), ("te", b"gzip"), ("transfer-encoding", b"chunked"), ("transfer-encoding", b"gzip, chunked"), ("http2-settings", b"AAMA"), ("", b"1")):
        yield Case(header, f"{key}: {text.decode()} in a request", at(PICK, sets((key, text), ("x-a", b"1"))), same=False, upstream={"x-a": "1", **({key: None} if key != "transfer-encoding" else {})})
    yield Case(header, "te: trailers in a request", at(PICK, sets(("te", b"trailers"))), upstream={"te": "trailers"})
    for length in (b"3", b"99", b"abc"):
        yield Case(header, f"content-length {length!r} in a request", at(PICK, sets(("content-length", length))))
        yield Case(header, f"content-length {length!r} in a response", at(RESPONSE, sets(("content-length", length))))
    for key, text in (("connection", b"close"), ("upgrade", b"websocket"), ("transfer-encoding", b"chunked"), ("transfer-encoding", b"gzip"), ("proxy-connection", b"close")):
        yield Case(header, f"{key}: {text.decode()} in a response", at(RESPONSE, sets((key, text), ("x-a", b"1"))), headers={"x-a": "1"})
    yield Case(header, "keep-alive in a response", at(RESPONSE, sets(("keep-alive", b"timeout=5"))), same=False, headers={"keep-alive": None})
    yield Case(header, "transfer-encoding of a chunked response", at(RESPONSE, sets(("transfer-encoding", b"chunked"), ("x-a", b"1"))), {"answer": CHUNKED_ANSWER}, headers={"x-a": "1"})
    yield Case(header, "another :status", at(RESPONSE, sets((":status", b"404"))), status=404)
    for code in (b"0", b"99", b"101", b"abc"):
        yield Case(header, f":status {code!r}", at(RESPONSE, sets((":status", code))))
    for code in (b"600", b"1000"):
        yield Case(header, f":status {code!r}", at(RESPONSE, sets((":status", code))), same=False)
    bad: Pairs = [("x-two", "a\nb"), ("x-zero", "a\0b"), ("x-del", "\x7f"), ("x name", "1"), ("x:y", "1")]
    for key, bad_text in bad:
        good = ("x-a", b"1")
        yield Case(header, f"{key!r}: {bad_text!r} in a request", at(PICK, sets((key, bad_text.encode()), good)), same=False, upstream={"x-a": "1", key: None})
        yield Case(header, f"{key!r}: {bad_text!r} in a response", at(RESPONSE, sets((key, bad_text.encode()), good)), same=False, headers={"x-a": "1", key: None})
    old: dict[str, Any] = {"headers": [("x-old", "0")]}
    for action in (0, 1, 2, 3, 9):
        yield Case(f"{option}.append_action", f"{action}", at(PICK, sets(("x-old", b"1"), ("x-new", b"1"), append_action=action)), old, upstream={"x-old": "1", "x-new": "1"})
    yield Case(f"{option}.append", "true", at(PICK, sets(("x-old", b"1"), append={"value": True})), old, upstream={"x-old": "0, 1"})
    yield Case(f"{option}.append", "false", at(PICK, sets(("x-old", b"1"), append={"value": False})), old, upstream={"x-old": "1"})
    yield Case(f"{option}.keep_empty_value", "an empty value", at(PICK, sets(("x-old", b""), keep_empty_value=True)), old, upstream={"x-old": ""})
    yield Case("HeaderValue.key", "upper case", at(PICK, sets(("X-Up", b"1"))), upstream={"x-up": "1"})
    yield Case("HeaderValue.value", "alone", at(PICK, lambda r: mutation_of(r).set_headers.add(header={"key": "x-a", "value": "1"})), upstream={"x-a": ""})
    yield Case("HeaderValue.value", "beside raw_value", at(PICK, lambda r: mutation_of(r).set_headers.add(header={"key": "x-a", "value": "1", "raw_value": b"2"})), upstream={"x-a": "2"})
    yield Case("HeaderValue.raw_value", "blanks around", at(PICK, sets(("x-a", b" 1 "))), upstream={"x-a": "1"})

    # ImmediateResponse
    refusal: dict[str, Any] = {"status": 429, "payload": None, "body": b"no"}
    code_field = "ImmediateResponse.status"
    yield Case(f"{message}.immediate_response", "429", instead(PICK, immediate(429)), **refusal)
    yield Case(f"{message}.immediate_response", "429 at the response", instead(RESPONSE, immediate(429)), **{**refusal, "payload": b"hello"})
    for code_ in (None, 0, 1, 99, 100, 199, 600, 999, 1000, 100_000, -5):
        yield Case(code_field, f"{code_}", instead(PICK, immediate(code_)), same=False, close=503)
        yield Case(code_field, f"{code_} at the response", instead(RESPONSE, immediate(code_)), same=False)
    for code_ in (200, 503, 599):
        yield Case(code_field, f"{code_}", instead(PICK, immediate(code_)), status=code_, payload=None, body=b"no")
    yield Case("ImmediateResponse.body", "of a 204", instead(PICK, immediate(204)), same=False, status=204, payload=None, body=b"")
    yield Case("ImmediateResponse.grpc_status", "for a plain request", instead(PICK, immediate(429, grpc=8)), **refusal)
    yield Case("ImmediateResponse.details", "blanks", instead(PICK, immediate(429, details="a b\nc")), **refusal)
    heads = "ImmediateResponse.headers"
    yield Case(heads, "good", instead(PICK, immediate(429, ("x-a", b"1"), ("retry-after", b"1"))), **refusal, headers={"x-a": "1"})
    yield Case(heads, "framing", instead(PICK, immediate(429, ("connection", b"close"), ("transfer-encoding", b"gzip"), ("content-length", b"1"), (":status", b"200"))), **refusal)
    yield Case(heads, "bad before good", instead(PICK, immediate(429, ("x bad", b"1"), ("x-two", b"a\nb"), ("x-a", b"1"))), same=False, **refusal, headers={"x-a": "1"})

    # StreamedImmediateResponse
    streamed = "StreamedImmediateResponse"
    first, end = streamed_headers((":status", b"201"), ("x-a", b"1")), streamed_body(b"end", True)
    answered: dict[str, Any] = {"status": 201, "payload": None, "headers": {"x-a": "1"}}
    for kind in (PICK, BODY):
        said = instead(kind, first, streamed_body(b"part ", False), end)
        yield Case(f"{message}.streamed_immediate_response", kind, said, same=kind == PICK, **answered, body=b"part end")
    yield Case(f"{streamed}.body_response", "without headers", instead(PICK, end), same=False, close=503)
    yield Case(f"{streamed}.headers_response", "without a status", instead(PICK, streamed_headers(("x-a", b"1")), end), same=False, close=503)
    yield Case(f"{streamed}.headers_response", "a status that does not exist", instead(PICK, streamed_headers((":status", b"99")), end), same=False, close=503)
    yield Case(f"{streamed}.headers_response", "bad headers", instead(PICK, streamed_headers((":status", b"201"), ("x bad", b"1"), ("x-a", b"1")), end), same=False, **answered, body=b"end")
    yield Case(f"{streamed}.trailers_response", "after a body", instead(PICK, first, streamed_body(b"part", False), streamed_trailers(("x-t", b"1"))), **answered, body=b"part")
    yield Case(f"{message}.streamed_immediate_response", "at the response", instead(RESPONSE, first, end), same=False)
