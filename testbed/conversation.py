"""One ext_proc stream of a simulated picker, as a state machine: messages in, steps out.

Pure; `picker` carries out the steps. The default behaviour is that of GAIE's picker, and a dialect changes
parts of it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from epp_client.ext_proc.pb.ext_proc_pb2 import (
    HeaderMutation,
    ProcessingRequest,
    ProcessingResponse,
)
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE, SERVED
from testbed.steps import (
    CHUNK,
    MODEL_REWRITE,
    SERVED_ECHO,
    SYSTEM_OWNED,
    Fail,
    Request,
    Step,
    header_map,
    refusal,
    set_header,
    streamed,
    unchanged,
)


class Timing(Enum):
    """When the pick is made."""

    HEADERS = auto()
    END_OF_REQUEST = auto()
    NEVER = auto()


class BodyForm(Enum):
    """When and how a request body is answered."""

    AT_THE_END = auto()
    AS_IT_COMES = auto()
    COMMON_RESPONSE = auto()


Change = Callable[[Request, list[Step]], Sequence[Step]]
Mutate = Callable[[HeaderMutation], None]


def _sane_pick(request: Request) -> str | None:
    return request.pick or None


@dataclass(frozen=True)
class Behaviour:
    """Everything that a dialect may change. The defaults are those of GAIE's picker."""

    timing: Timing = Timing.END_OF_REQUEST
    pick: Callable[[Request], str | None] = _sane_pick
    """Returns the pick; None: no endpoint is eligible, which the protocol answers with a 503."""
    other_pick: str | None = None
    """The pick in the header, if it differs from the metadata."""
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
    """Applied in turn to the steps that answer one response message: (phase, count of such messages,
    steps)."""
    answers_request_trailers: bool = True
    answers_trailers: bool = True
    """Whether it answers response trailers."""
    repeats_headers: bool = False
    """Whether it sets every header of the request and of the response again, without an append action."""
    left_out: frozenset[str] = SYSTEM_OWNED
    """Headers that `repeats_headers` leaves out."""
    encodes_json: bool = False
    """Whether it decodes and encodes request bodies, with the model name from a header."""
    restores_name: bool = False
    """Whether it puts the original model name back into the response."""
    echoes_served: bool = True
    """Whether it returns the served endpoint in a response header, as in GAIE's conformance tests."""
    repeats_each: bool = False
    """Whether it returns every header field of the response in order, and the served endpoint or why it is
    unknown."""
    echoes_pick: bool = False
    """Whether it adds a request header that makes GAIE's echo server return the pick."""
    plain_response: Callable[[bytes], bytes] = bytes
    """Changes a complete response that is not an event stream."""
    plain_at_the_end: bool = False
    """Whether a response that is not an event stream is answered only at its end, in one piece."""


@dataclass
class Record:
    """What a picker received of one request."""

    headers: dict[str, str]
    subset: tuple[str, ...] | None
    dialects: tuple[str, ...]
    body_sha256: str = ""
    pick: str | None = None
    served: str | None = None
    response_headers: dict[str, str] = field(default_factory=dict)
    response_body_sha256: str = ""
    phases: list[str] = field(default_factory=list)
    """ext_proc's names of the messages, in order, without repetitions in a row."""
    finished: bool = False
    """Whether the sidecar half-closed the stream, or the picker closed it; False when it was reset."""


class Conversation:
    """One ext_proc stream from the picker's side."""

    def __init__(
        self,
        endpoints: Sequence[str],
        turn: int,
        dialects: Sequence[str],
        known: "Mapping[str, Dialect]",
    ) -> None:
        """`dialects` apply to requests that name none. `known` has all dialects by name."""
        self._endpoints = endpoints
        self._turn = turn
        self._dialects = tuple(dialects)
        self._known = known
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
        """The steps that answer `message`. Raises KeyError for an unknown dialect."""
        phase = message.WhichOneof("request")
        if phase is None:
            return
        if phase == "request_headers" or (phase == "response_headers" and self._request is None):
            # Envoy's own answer to a request begins with response headers, which real pickers answer too.
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
        """End the stream; returns the record, or None if no headers were received."""
        if self.record is not None and self._request is not None:
            self.record.body_sha256 = hashlib.sha256(self._request.body).hexdigest()
            self.record.response_body_sha256 = self._response_digest.hexdigest()
        return self.record

    def _start(self, message: ProcessingRequest) -> None:
        request = self._request = Request(message, self._endpoints, self._turn)
        asked = request.headers.get("x-picker-dialect")
        names = self._dialects if asked is None else tuple(n.strip() for n in asked.split(","))
        for name in names:
            self._behaviour = self._known[name](self._behaviour)
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
        # Changes apply to the message that completes a pick, not to echoes before it.
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
        # Real pickers do not read the headers of a request without a body.
        if how.repeats_headers and request is not None and request.has_body:
            if body := self._request_body(request):
                set_header(common.header_mutation, "Content-Length", str(len(body)))
            self._repeat(common.header_mutation, request.headers)
        if how.echoes_pick:
            set_header(common.header_mutation, "X-Echo-Set-Header", f"{SERVED_ECHO}:{pick}")
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
        elif self._behaviour.repeats_each:
            missing = "destination endpoint served" if LB_NAMESPACE in namespaces else "envoy lb"
            set_header(mutation, SERVED_ECHO, f"fail: missing {missing} metadata")
        if self._behaviour.repeats_headers:
            set_header(mutation, "x-went-into-resp-headers", "true")
            self._repeat(mutation, headers)
        if self._behaviour.repeats_each:
            set_header(mutation, "x-went-into-resp-headers", "true")
            for header in message.response_headers.headers.headers:
                mutation.set_headers.add().header.CopyFrom(header)
        if self._behaviour.mutate_response is not None:
            self._behaviour.mutate_response(mutation)
        return reply


Dialect = Callable[[Behaviour], Behaviour]


def as_go_writes(fields: object) -> bytes:
    """JSON as Go's encoding/json writes a map."""
    return json.dumps(fields, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
