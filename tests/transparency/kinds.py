"""Kinds of requests and of answers: what a client writes, and what a model server answers with. Pure."""

import gzip
import json
from dataclasses import dataclass
from typing import Literal

Fields = tuple[tuple[str, str], ...]
"""Header fields in order; a name may come more than once."""

CASE = "x-case"
"""The header that names a case, at all three ends."""
ANSWER = "x-answer"
"""The header that tells the model server which kind of answer to give."""

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
"""Of every answer of the model servers."""

Framing = Literal["none", "length", "chunked", "close"]
"""How a body ends in HTTP/1.1. HTTP/2 sends `content-length` for `length` alone."""

JSON = (("content-type", "application/json"),)


@dataclass(frozen=True)
class Request:
    """One kind of request."""

    name: str
    method: str = "POST"
    path: str = "/v1/chat/completions"
    version: Literal["1.0", "1.1", "2"] = "1.1"
    headers: Fields = JSON
    body: tuple[bytes, ...] = ()
    framing: Framing = "length"
    trailers: Fields = ()
    expects_continue: bool = False


@dataclass(frozen=True)
class Answer:
    """One kind of answer."""

    name: str
    status: int = 200
    headers: Fields = JSON
    body: tuple[bytes, ...] = ()
    framing: Framing = "length"
    trailers: Fields = ()
    paced: bool = False
    """The last piece waits until the client has got something of the body."""


CHAT = json.dumps(
    {"model": "public-name", "messages": [{"role": "user", "content": "Hello " * 150}]}
).encode()
LARGE = bytes(range(256)) * 19_600
"""Five MB that are not all the same."""


def _pieces(body: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(body[start : start + size] for start in range(0, len(body), size))


_BOUNDARY = "a-boundary-of-parts"
_MULTIPART = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    "Content-Type: audio/wav\r\n\r\n"
).encode() + LARGE[:40_000]
_MULTIPART += f"\r\n--{_BOUNDARY}--\r\n".encode()

_MANY = tuple((f"x-many-{number}", "v" * 40) for number in range(60))
"""With what clients, Envoy and the suite add still below Envoy's 100."""
_LONG = tuple((f"x-long-{number}", "w" * 8_000) for number in range(6))
"""48 KB, below Envoy's 60 KiB."""
_TWICE = (
    ("x-twice", "first"),
    ("x-twice", "second"),
    ("cookie", "a=1"),
    ("cookie", "b=2"),
    ("x-empty", ""),
    ("x-latin", "caf\u00e9"),
)
_TRAILERS = (("x-checksum", "abc"), ("x-twice", "first"), ("x-twice", "second"))

REQUESTS = {
    kind.name: kind
    for kind in (
        Request("get", "GET", "/v1/models", headers=(), framing="none"),
        Request("head", "HEAD", "/v1/models", headers=(), framing="none"),
        Request(
            "options",
            "OPTIONS",
            headers=(("origin", "https://a.example"), ("access-control-request-method", "POST")),
            framing="none",
        ),
        Request("no-body"),
        Request("1-kb", body=(CHAT,)),
        Request("5-mb", path="/v1/chat/completions?api-version=2", body=_pieces(LARGE, 1_000_000)),
        Request("chunked", body=_pieces(CHAT, 100), framing="chunked"),
        Request("chunked-empty", framing="chunked"),
        Request("trailers", body=_pieces(CHAT, 400), framing="chunked", trailers=_TRAILERS),
        Request("expect-continue", body=(CHAT,), expects_continue=True),
        Request("http-1.0", version="1.0", body=(CHAT,)),
        Request("h2", version="2", body=(CHAT,)),
        Request("h2-get", "GET", "/v1/models", "2", headers=(), framing="none"),
        Request("h2-5-mb", version="2", body=_pieces(LARGE, 1_000_000), framing="chunked"),
        Request("h2-trailers", version="2", body=_pieces(CHAT, 400), trailers=_TRAILERS),
        Request(
            "multipart",
            path="/v1/audio/transcriptions",
            headers=(("content-type", f"multipart/form-data; boundary={_BOUNDARY}"),),
            body=_pieces(_MULTIPART, 9_000),
        ),
        Request(
            "gzip",
            headers=(*JSON, ("content-encoding", "gzip")),
            body=(gzip.compress(CHAT, mtime=0),),
        ),
        Request("repeated-headers", headers=(*JSON, *_TWICE), body=(CHAT,)),
        Request("many-headers", headers=(*JSON, *_MANY), body=(CHAT,)),
        Request("long-headers", headers=(*JSON, *_LONG), body=(CHAT,)),
    )
}

_EVENT = b'data: {"model": "adapter-name", "choices": [{"delta": {"content": "Hello"}}]}\n\n'
_USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}\n\n'
_COMPLETION = b'{"model": "adapter-name", "choices": [{"message": {"content": "Hello"}}]}'

ANSWERS = {
    kind.name: kind
    for kind in (
        Answer("length", body=(_COMPLETION,)),
        Answer("empty"),
        Answer("chunked", body=_pieces(_COMPLETION * 20, 90), framing="chunked"),
        Answer("chunked-empty", framing="chunked"),
        Answer("until-close", body=(_COMPLETION,), framing="close"),
        Answer("5-mb", body=_pieces(LARGE, 700_000)),
        Answer(
            "sse",
            headers=(("content-type", "text/event-stream"), ("cache-control", "no-cache")),
            body=(*([_EVENT] * 5), _USAGE, b"data: [DONE]\n\n"),
            framing="chunked",
            paced=True,
        ),
        Answer("204", 204, headers=(), framing="none"),
        Answer("304", 304, headers=(("etag", '"7"'),), framing="none"),
        Answer("500", 500, body=(b'{"error": {"message": "out of memory"}}',)),
        Answer("trailers", body=_pieces(_COMPLETION, 30), framing="chunked", trailers=_TRAILERS),
        Answer("only-trailers", framing="chunked", trailers=_TRAILERS),
        Answer(
            "gzip",
            headers=(*JSON, ("content-encoding", "gzip"), ("vary", "accept-encoding")),
            body=(gzip.compress(_COMPLETION * 50, mtime=0),),
        ),
        Answer(
            "repeated-headers",
            headers=(*JSON, ("set-cookie", "a=1"), ("set-cookie", "b=2"), *_TWICE),
            body=(_COMPLETION,),
        ),
        Answer("many-headers", headers=(*JSON, *_MANY), body=(_COMPLETION,)),
        Answer("long-headers", headers=(*JSON, *_LONG), body=(_COMPLETION,)),
    )
}
