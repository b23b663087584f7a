"""How endpoint pickers differ: what each dialect answers to each message of one request.

Pure: messages in, steps out. No event loop, no gRPC and no clock; `picker` carries the steps out.
The well-behaved default is GAIE's picker, and every dialect is a change of some part of it, so
that several of them can be combined.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import NamedTuple

from google.protobuf.struct_pb2 import Value

from epp_client.ext_proc.pb.ext_proc_pb2 import (
    HeaderMap,
    HeaderMutation,
    ProcessingRequest,
    ProcessingResponse,
)
from epp_client.picker.protocol import (
    DESTINATION,
    LB_NAMESPACE,
    SERVED,
    SUBSET,
    SUBSET_NAMESPACE,
)

CHUNK = 64_000
"""Bytes of body in one answer; GAIE's picker stays under Envoy's and gRPC's limits with it."""
STEERING = "test-epp-endpoint-selection"
SERVED_ECHO = "x-conformance-test-served-endpoint"
OVERSIZED = 5 * 1024 * 1024
"""Bytes of a header that no gRPC peer with default limits takes."""
MODEL_REWRITE = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
"""The request header with the name that a model has at the model server, and its name before llm-d."""
CONTROLS = frozenset(
    {*MODEL_REWRITE, "x-gateway-inference-objective", "x-gateway-inference-fairness-id"}
)
"""Headers for the picker alone, which no picker repeats."""
SYSTEM_OWNED = CONTROLS | {"content-length", DESTINATION, SERVED, SUBSET}
"""Headers that pickers since GAIE 1.3 leave out when they repeat all the others."""


class Wait(NamedTuple):
    """Say nothing for some time."""

    seconds: float


class Finish(NamedTuple):
    """Close the stream with OK."""


class Fail(NamedTuple):
    """End the stream with the gRPC status of this name."""

    status: str
    message: str


Step = ProcessingResponse | bytes | Wait | Finish | Fail
"""One thing a picker does next; bytes are sent as they are, whatever they mean."""


class Request:
    """What the picker knows of one request."""

    def __init__(self, message: ProcessingRequest, endpoints: Sequence[str], turn: int) -> None:
        self.headers = header_map(message.request_headers.headers)
        self.has_body = not message.request_headers.end_of_stream
        self.body = bytearray()
        self.subset = _subset(message)
        self.candidates = _steered(self.headers, endpoints, self.subset)
        steered = STEERING in self.headers
        self.pick = ",".join(self.candidates if steered else _rotated(self.candidates, turn))
        """What a picker in its right mind says; empty when nothing is eligible."""


def header_map(headers: HeaderMap) -> dict[str, str]:
    """Header values by lower-case name, wherever the sender put them."""
    return {
        h.key.lower(): (h.raw_value or h.value.encode()).decode("latin-1") for h in headers.headers
    }


def _subset(message: ProcessingRequest) -> tuple[str, ...] | None:
    """The subset hint, a list or a comma-separated string; None when there is none."""
    namespaces = message.metadata_context.filter_metadata
    if SUBSET_NAMESPACE not in namespaces or SUBSET not in namespaces[SUBSET_NAMESPACE].fields:
        return None
    value: Value = namespaces[SUBSET_NAMESPACE].fields[SUBSET]
    if value.WhichOneof("kind") == "list_value":
        return tuple(entry.string_value for entry in value.list_value.values)
    return tuple(entry.strip() for entry in value.string_value.split(",") if entry.strip())


def _steered(
    headers: dict[str, str], endpoints: Sequence[str], subset: tuple[str, ...] | None
) -> list[str]:
    eligible = [e for e in endpoints if subset is None or e in subset]
    if STEERING not in headers:
        return eligible
    names = [name.strip() for name in headers[STEERING].split(",")]
    return [e for name in names for e in eligible if name in (e, e.rpartition(":")[0])]


def _rotated(candidates: Sequence[str], turn: int) -> list[str]:
    return [candidates[turn % len(candidates)]] if candidates else []


def streamed(
    body: bytes, *, end: bool = True, response: bool = False, size: int = CHUNK
) -> list[ProcessingResponse]:
    """StreamedBodyResponses of at most `size` bytes; the last has `end`. One for an empty body."""
    replies: list[ProcessingResponse] = []
    starts = range(0, max(len(body), 1), size)
    for start in starts:
        reply = ProcessingResponse()
        part = reply.response_body if response else reply.request_body
        chunk = part.response.body_mutation.streamed_response
        chunk.body = body[start : start + size]
        chunk.end_of_stream = end and start == starts[-1]
        replies.append(reply)
    return replies


def unchanged(*, response: bool = False) -> ProcessingResponse:
    """lwepp v1.6.0's body answer: a BodyResponse with an empty CommonResponse."""
    reply = ProcessingResponse()
    (reply.response_body if response else reply.request_body).response.SetInParent()
    return reply


def refusal(status: int) -> ProcessingResponse:
    """An ImmediateResponse."""
    reply = ProcessingResponse()
    reply.immediate_response.status.code = status
    reply.immediate_response.body = b"the picker refuses"
    return reply


def set_header(mutation: HeaderMutation, key: str, value: str, *, raw: bool = True) -> None:
    """Add one header to a mutation, in `raw_value` or in `value`."""
    header = mutation.set_headers.add().header
    header.key = key
    if raw:
        header.raw_value = value.encode()
    else:
        header.value = value


class Timing(Enum):
    """When the pick is made."""

    HEADERS = auto()
    END_OF_REQUEST = auto()
    NEVER = auto()


class BodyForm(Enum):
    """What a request body is answered with."""

    AT_THE_END = auto()
    AS_IT_COMES = auto()
    COMMON_RESPONSE = auto()


Change = Callable[[Request, list[Step]], Sequence[Step]]
Mutate = Callable[[HeaderMutation], None]


def _sane_pick(request: Request) -> str | None:
    return request.pick or None


@dataclass(frozen=True)
class Behaviour:
    """Everything that a dialect may change. The defaults are GAIE's picker."""

    timing: Timing = Timing.END_OF_REQUEST
    pick: Callable[[Request], str | None] = _sane_pick
    """The pick; None: nothing is eligible, which the protocol answers with a 503."""
    other_pick: str | None = None
    """What the header says when it disagrees with the metadata."""
    in_header: bool = True
    in_metadata: bool = True
    raw: bool = True
    body_form: BodyForm = BodyForm.AT_THE_END
    body: Callable[[bytes], bytes] = bytes
    size: int = CHUNK
    mutate_request: Mutate | None = None
    answer: tuple[Change, ...] = ()
    """Applied in turn to the steps that answer the request."""
    mutate_response: Mutate | None = None
    response_body: Callable[[bytes], bytes] = bytes
    response: tuple[Callable[[str, int, list[Step]], Sequence[Step]], ...] = ()
    """Applied in turn to the steps for one response message: (phase, how many of it, steps)."""
    answers_request_trailers: bool = True
    answers_trailers: bool = True
    """Those of the response."""
    repeats_headers: bool = False
    """Every header of the request and of the response comes back, set anew without an append action."""
    left_out: frozenset[str] = SYSTEM_OWNED
    """But for these."""
    encodes_json: bool = False
    """Request bodies are read and written anew, with the model's name that a header asks for."""
    restores_name: bool = False
    """The model's name of the request comes back in the response."""
    echoes_served: bool = True
    """The served endpoint comes back in a response header, as in GAIE's conformance tests."""
    plain_response: Callable[[bytes], bytes] = bytes
    """What becomes of a whole response that is no event stream."""
    plain_at_the_end: bool = False
    """A response that is no event stream is answered at its end alone, in one piece."""


@dataclass
class Record:
    """What a picker saw of one request."""

    headers: dict[str, str]
    subset: tuple[str, ...] | None
    dialects: tuple[str, ...]
    body_sha256: str = ""
    pick: str | None = None
    served: str | None = None
    response_headers: dict[str, str] = field(default_factory=dict)
    response_body_sha256: str = ""
    phases: list[str] = field(default_factory=list)
    """ext_proc's names of the messages, in order; runs of the same phase count once."""
    finished: bool = False
    """Whether the sidecar half-closed the stream, or the picker closed it; False when it was reset."""


class Conversation:
    """One ext_proc stream from the picker's side."""

    def __init__(self, endpoints: Sequence[str], turn: int, dialects: Sequence[str]) -> None:
        self._endpoints = endpoints
        self._turn = turn
        self._dialects = tuple(dialects)
        self._behaviour = Behaviour()
        self._request: Request | None = None
        self._picked = False
        self._counts: dict[str, int] = {}
        self._response_digest = hashlib.sha256()
        self._is_event_stream = False
        self._plain = bytearray()
        self._names: tuple[str, str] | None = None
        self.record: Record | None = None

    def receive(self, message: ProcessingRequest) -> Iterator[Step]:
        """The steps that answer `message`. Raises KeyError for a dialect nobody knows."""
        phase = message.WhichOneof("request")
        if phase is None:
            return
        if phase == "request_headers" or (phase == "response_headers" and self._request is None):
            # An answer of Envoy's own begins with response headers, which real pickers answer too.
            self._start(message)
        request, record = self._request, self.record
        if request is None or record is None:
            yield Fail("INVALID_ARGUMENT", f"{phase} before request_headers")
            return
        if record.phases[-1:] != [phase]:
            record.phases.append(phase)
        self._counts[phase] = self._counts.get(phase, 0) + 1
        if phase in ("request_headers", "request_body"):
            yield from self._request_message(request, message)
        else:
            yield from self._later(request, phase, message)

    def finish(self) -> Record | None:
        """The stream is over: what was seen, or None when not even headers were."""
        if self.record is not None and self._request is not None:
            self.record.body_sha256 = hashlib.sha256(self._request.body).hexdigest()
            self.record.response_body_sha256 = self._response_digest.hexdigest()
        return self.record

    def _start(self, message: ProcessingRequest) -> None:
        request = self._request = Request(message, self._endpoints, self._turn)
        asked = request.headers.get("x-picker-dialect")
        names = self._dialects if asked is None else tuple(n.strip() for n in asked.split(","))
        for name in names:
            self._behaviour = DIALECTS[name](self._behaviour)
        self.record = Record(request.headers, request.subset, names)

    def _request_message(self, request: Request, message: ProcessingRequest) -> Iterator[Step]:
        how = self._behaviour
        is_body = message.WhichOneof("request") == "request_body"
        request.body += message.request_body.body
        end = message.request_body.end_of_stream or not request.has_body
        if how.timing is Timing.NEVER:
            return
        answer: list[Step] = []
        due = end or how.timing is Timing.HEADERS
        if due and not self._picked:
            self._picked = True
            pick = how.pick(request)
            if pick is None:
                yield refusal(503)
                return
            assert self.record is not None
            self.record.pick = pick
            answer.append(self._header_answer(pick))
        if is_body and how.body_form is BodyForm.COMMON_RESPONSE:
            answer.append(unchanged())
        elif is_body and how.body_form is BodyForm.AS_IT_COMES:
            answer += streamed(message.request_body.body, end=end, size=how.size)
        elif is_body and end:
            answer += streamed(self._request_body(request), size=how.size)
        # Changes apply to the message that completes a pick, never to mere echoes before it.
        if end or (how.timing is Timing.HEADERS and not is_body):
            for change in how.answer:
                answer = list(change(request, answer))
        yield from answer

    def _header_answer(self, pick: str) -> ProcessingResponse:
        how = self._behaviour
        reply = ProcessingResponse()
        common = reply.request_headers.response
        common.clear_route_cache = True
        if how.in_header:
            said = pick if how.other_pick is None else how.other_pick
            set_header(common.header_mutation, DESTINATION, said, raw=how.raw)
        request = self._request
        # Without a body pickers do not even read the headers.
        if how.repeats_headers and request is not None and request.has_body:
            if body := self._request_body(request):
                set_header(common.header_mutation, "Content-Length", str(len(body)))
            self._repeat(common.header_mutation, request.headers)
        if how.mutate_request is not None:
            how.mutate_request(common.header_mutation)
        if how.in_metadata:
            lb = reply.dynamic_metadata.fields[LB_NAMESPACE].struct_value
            lb.fields[DESTINATION].string_value = pick
        return reply

    def _repeat(self, mutation: HeaderMutation, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            if name not in self._behaviour.left_out:
                header = mutation.set_headers.add().header
                header.key, header.raw_value = name, value.encode("latin-1")

    def _later(self, request: Request, phase: str, message: ProcessingRequest) -> Iterator[Step]:
        how = self._behaviour
        answer: list[Step] = []
        if how.timing is Timing.NEVER:
            return
        if phase == "response_headers":
            answer.append(self._response_headers(message))
        elif phase == "response_body":
            part = message.response_body
            self._response_digest.update(part.body)
            if how.body_form is BodyForm.COMMON_RESPONSE:
                answer.append(unchanged(response=True))
            elif how.plain_at_the_end and not self._is_event_stream:
                self._plain += part.body
                if part.end_of_stream:
                    answer += self._whole_response(end=True)
            else:
                body = self._renamed(how.response_body(part.body))
                answer += streamed(body, end=part.end_of_stream, response=True, size=how.size)
        elif how.answers_request_trailers if phase == "request_trailers" else how.answers_trailers:
            if phase == "response_trailers" and how.plain_at_the_end and not self._is_event_stream:
                answer += self._whole_response(end=False)
            reply = ProcessingResponse()
            getattr(reply, phase).SetInParent()
            answer.append(reply)
        if phase != "request_trailers":
            for change in how.response:
                answer = list(change(phase, self._counts[phase], answer))
        yield from answer

    def _request_body(self, request: Request) -> bytes:
        body = self._behaviour.body(bytes(request.body))
        if not self._behaviour.encodes_json:
            return body
        target = next((request.headers[n] for n in MODEL_REWRITE if n in request.headers), None)
        try:
            fields = json.loads(body)
        except ValueError:
            return body
        if target is not None:
            self._names = (target, fields["model"])
            fields["model"] = target
        return as_go_writes(fields)

    def _renamed(self, body: bytes) -> bytes:
        if self._names is None or not self._behaviour.restores_name:
            return body
        target, public = (json.dumps(name) for name in self._names)
        for between in (":", ": "):
            found = f'"model"{between}{target}'.encode()
            if found in body:
                return body.replace(found, f'"model"{between}{public}'.encode())
        return body

    def _whole_response(self, *, end: bool) -> list[ProcessingResponse]:
        how = self._behaviour
        body = self._renamed(how.plain_response(how.response_body(bytes(self._plain))))
        return streamed(body, end=end, response=True, size=how.size)

    def _response_headers(self, message: ProcessingRequest) -> ProcessingResponse:
        assert self.record is not None
        self.record.response_headers = headers = header_map(message.response_headers.headers)
        self._is_event_stream = "text/event-stream" in headers.get("content-type", "")
        namespaces = message.metadata_context.filter_metadata
        reply = ProcessingResponse()
        reply.response_headers.response.SetInParent()
        mutation = reply.response_headers.response.header_mutation
        if LB_NAMESPACE in namespaces and SERVED in namespaces[LB_NAMESPACE].fields:
            self.record.served = namespaces[LB_NAMESPACE].fields[SERVED].string_value
            if self._behaviour.echoes_served:
                set_header(mutation, SERVED_ECHO, self.record.served)
        if self._behaviour.repeats_headers:
            set_header(mutation, "x-went-into-resp-headers", "true")
            self._repeat(mutation, headers)
        if self._behaviour.mutate_response is not None:
            self._behaviour.mutate_response(mutation)
        return reply


Dialect = Callable[[Behaviour], Behaviour]


def _picks(text: Callable[[Request], str]) -> Dialect:
    return lambda b: replace(b, pick=text)


def _answers(change: Change, *, timing: Timing | None = None) -> Dialect:
    return lambda b: replace(b, answer=(*b.answer, change), timing=timing or b.timing)


def _responds(change: Callable[[str, int, list[Step]], Sequence[Step]]) -> Dialect:
    return lambda b: replace(b, response=(*b.response, change))


def _mutate_request(mutation: HeaderMutation) -> None:
    set_header(mutation, "x-picker-added", "yes")
    mutation.remove_headers.append("x-client-sent")


def _mutate_response(mutation: HeaderMutation) -> None:
    set_header(mutation, "x-picker-response", "yes")
    mutation.remove_headers.append("x-http-version")


def _too_many_headers(mutation: HeaderMutation) -> None:
    for number in range(98):
        set_header(mutation, f"x-picker-{number}", "one of many")


def _french(body: bytes) -> bytes:
    return body.replace(b"Hello", b"Bonjour")


def _adapter(body: bytes) -> bytes:
    return body.replace(b'"public-name"', b'"adapter-name"')


def as_go_writes(fields: object) -> bytes:
    """JSON as Go's encoding/json writes a map."""
    return json.dumps(fields, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def _encoded_anew(body: bytes) -> bytes:
    try:
        return as_go_writes(json.loads(body))
    except ValueError:
        return body


def _repeating(behaviour: Behaviour) -> Behaviour:
    """GAIE's EPP since 1.3 and llm-d's, which rewrite a model's name both ways."""
    return replace(
        behaviour,
        repeats_headers=True,
        plain_at_the_end=True,
        answers_request_trailers=False,
        echoes_served=False,
        encodes_json=True,
        restores_name=True,
        size=62_000,
    )


def _half_then_dead(request: Request, answer: list[Step]) -> list[Step]:
    half = streamed(bytes(request.body[: len(request.body) // 2]), end=False)
    return [*answer[:1], *half, Fail("ABORTED", "died")]


def _ranked(request: Request) -> str:
    """Every candidate, the pick first: an ordered list for retries."""
    first = request.candidates.index(request.pick) if request.pick in request.candidates else 0
    return ",".join(request.candidates[first:] + request.candidates[:first])


def _drip(_: Request, answer: list[Step]) -> list[Step]:
    """One message, a pause, the next one: an answer that is always just about to come."""
    return [part for step in answer for part in (Wait(0.2), step)]


def _twice(_: Request, answer: list[Step]) -> list[Step]:
    """The header answer and the end of the body twice; a chunk twice would be another body."""
    first, *rest = answer
    return [first, first, *rest, *rest[-1:]]


DIALECTS: dict[str, Dialect] = {
    # What real pickers do.
    "pick-after-body": lambda b: b,
    "pick-with-headers": lambda b: replace(b, timing=Timing.HEADERS),
    "streaming": lambda b: replace(b, timing=Timing.HEADERS, body_form=BodyForm.AS_IT_COMES),
    "body-before-headers": _answers(lambda _, answer: [*answer[1:], *answer[:1]]),
    "common-response": lambda b: replace(
        b,
        body_form=BodyForm.COMMON_RESPONSE,
        answers_request_trailers=False,
        answers_trailers=False,
    ),
    "rewrite-body": lambda b: replace(b, body=_adapter),
    "replace-body": lambda b: replace(b, body=lambda _: b"other" * 9, size=7),
    "chunked": lambda b: replace(b, size=20_000),
    "close-after-pick": _answers(lambda _, answer: [*answer, Finish()]),
    "ignore-trailers": lambda b: replace(b, answers_request_trailers=False, answers_trailers=False),
    "silent-response": _responds(lambda _, __, ___: []),
    "llm-d-0.10": _repeating,
    "gaie-1.2": lambda b: replace(
        _repeating(b),
        left_out=CONTROLS,
        answers_trailers=False,
        restores_name=False,
        plain_response=_encoded_anew,
    ),
    "slow": _answers(
        lambda r, answer: [Wait(float(r.headers.get("x-picker-delay-ms", "100")) / 1000), *answer]
    ),
    "mutate": lambda b: replace(
        b,
        mutate_request=_mutate_request,
        mutate_response=_mutate_response,
        response_body=_french,
    ),
    "rewrite-response": lambda b: replace(b, response_body=_french),
    "raw-value": lambda b: replace(b, raw=True),
    "value": lambda b: replace(b, raw=False),
    "header-only": lambda b: replace(b, in_metadata=False),
    "metadata-only": lambda b: replace(b, in_header=False),
    "pick-list": _picks(lambda r: r.headers.get("x-picker-list", "")),
    "ranked": _picks(_ranked),
    # Refusals, which are answers.
    "refuse-429": _answers(lambda _, __: [refusal(429)]),
    "refuse-503": _answers(lambda _, __: [refusal(503)]),
    "refuse-at-response": _responds(
        lambda phase, _, answer: [refusal(502)] if phase == "response_headers" else answer
    ),
    # No answer, or hardly any.
    "drip": lambda b: replace(b, size=8_000, answer=(*b.answer, _drip)),
    "silent": lambda b: replace(b, timing=Timing.NEVER),
    "close-before-pick": _answers(lambda _, __: [Finish()], timing=Timing.HEADERS),
    "no-endpoints-status": _answers(
        lambda _, __: [Fail("INTERNAL", "no endpoints")], timing=Timing.HEADERS
    ),
    # Picks that are none.
    "disagree": lambda b: replace(b, other_pick="127.0.0.9:1"),
    "pick-hostname": _picks(lambda _: "pod-a.default.svc:8000"),
    "pick-no-port": _picks(lambda r: r.pick.rpartition(":")[0]),
    "pick-empty": _picks(lambda _: ""),
    "pick-10000": _picks(lambda r: ",".join([r.pick] * 10_000)),
    "pick-unicode": _picks(lambda _: "１２7.0.0.1:8000"),
    "pick-outside": _picks(lambda _: "127.0.0.77:9"),
    "pick-none": lambda b: replace(b, in_header=False, in_metadata=False),
    # Broken protocol.
    "garbage-bytes": _answers(lambda _, __: [b"\xff\xff\xff\xff"], timing=Timing.HEADERS),
    "wrong-order": _answers(lambda _, answer: [*streamed(b"x", response=True), *answer]),
    "duplicate-replies": _answers(_twice),
    "die-mid-body": _answers(_half_then_dead),
    "die-mid-response": _responds(
        lambda phase, _, answer: [Fail("ABORTED", "died")] if phase == "response_body" else answer
    ),
    "error-mid-response": _responds(
        lambda phase, count, answer: (
            [Fail("INTERNAL", "broken")] if phase == "response_body" and count > 1 else answer
        )
    ),
    "oversized-mutation": lambda b: replace(
        b, mutate_request=lambda m: set_header(m, "x-picker-oversized", "x" * OVERSIZED)
    ),
    # What Envoy refuses to set.
    "invalid-mutation": lambda b: replace(
        b, mutate_request=lambda m: set_header(m, "x-picker-invalid", "two\nlines")
    ),
    "invalid-response-mutation": lambda b: replace(
        b, mutate_response=lambda m: set_header(m, "x picker invalid", "name")
    ),
    "too-many-headers": lambda b: replace(
        b, mutate_request=_too_many_headers, mutate_response=_too_many_headers
    ),
}
"""What each dialect changes, by the name that CLI and `x-picker-dialect` know it by."""
