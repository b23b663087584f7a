"""A scripted Envoy and picker around one Exchange, and the referee of what Envoy accepts."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from epp_client.ext_proc.messages import Answer, BodyForm, read_message, read_reply
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from epp_client.ext_proc.replies import MARKS_NAMESPACE, REQUEST_TRAILERS_MARK
from epp_client.picker.preparation import Subset
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import (
    EndpointPickerRef,
    FailureMode,
    InferencePool,
    PoolName,
)
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.relay.actions import (
    Action,
    Arm,
    Disarm,
    FailEnvoy,
    FinishEnvoy,
    OpenPicker,
    Timer,
    ToEnvoy,
    ToPicker,
)
from epp_client.relay.exchange import Exchange
from epp_client.relay.retention import RetentionBudget
from epp_client.relay.state import QUARTERS

A, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"
OUTSIDE = "192.0.2.9:8000"


def table(*keys: str, draining: tuple[str, ...] = (), generation: int = 1) -> EndpointTable:
    """A table of endpoints that joined in `generation`."""
    endpoints = {}
    for key in (*keys, *draining):
        ip, _, port = key.rpartition(":")
        endpoints[key] = Endpoint(key, ip, int(port), "pod", key not in draining, generation)
    return EndpointTable(by_key=MappingProxyType(endpoints), generation=generation)


def snapshot(
    mode: FailureMode = FailureMode.FAIL_OPEN,
    members: EndpointTable | None = None,
    picker: bool = True,
    acknowledged: int | None = None,
    **settings: Any,
) -> PoolSnapshot:
    """A pool of three endpoints, its picker reachable."""
    pool = InferencePool(
        PoolName("default", "llama"),
        (("app", "llama"),),
        (8000,),
        picker=EndpointPickerRef("epp", 9002, mode) if picker else None,
        settings=PoolSettings.model_validate(settings),
    )
    target = PickerTarget(("10.1.0.1:9002",), "epp.default.svc") if picker else None
    return PoolSnapshot(pool, table(A, B, C) if members is None else members, target, acknowledged)


def request_headers(end: bool = False, **headers: Any) -> bytes:
    """A request-headers message; underscores in names become dashes."""
    message = ProcessingRequest()
    message.request_headers.end_of_stream = end
    for key, value in headers.items():
        message.request_headers.headers.headers.add(
            key=key.replace("_", "-"), raw_value=value.encode()
        )
    return message.SerializeToString()


def body(payload: bytes, end: bool = False, *, response: bool = False) -> bytes:
    """A body message."""
    message = ProcessingRequest()
    part = message.response_body if response else message.request_body
    part.body, part.end_of_stream = payload, end
    return message.SerializeToString()


def trailers(*, response: bool = False) -> bytes:
    """A trailers message."""
    message = ProcessingRequest()
    (message.response_trailers if response else message.request_trailers).trailers.headers.add(
        key="x-checksum", raw_value=b"1"
    )
    return message.SerializeToString()


def response_headers(end: bool = False, **headers: Any) -> bytes:
    """A response-headers message; underscores in names become dashes."""
    message = ProcessingRequest()
    message.response_headers.end_of_stream = end
    message.response_headers.headers.headers.add(key=":status", raw_value=b"200")
    for key, value in headers.items():
        message.response_headers.headers.headers.add(
            key=key.replace("_", "-"), raw_value=value.encode()
        )
    return message.SerializeToString()


def picked(
    text: str | None, *, header: str | None = None, metadata: bool = True, **set_headers: Any
) -> bytes:
    """A picker's header answer; `header` differs from the metadata where given."""
    reply = ProcessingResponse()
    reply.request_headers.SetInParent()
    mutation = reply.request_headers.response.header_mutation
    if text is not None:
        option = mutation.set_headers.add()
        option.header.key = DESTINATION
        option.header.raw_value = (header or text).encode()
        if metadata:
            lb = reply.dynamic_metadata.fields[LB_NAMESPACE].struct_value
            lb.fields[DESTINATION].string_value = text
    for key, value in set_headers.items():
        option = mutation.set_headers.add()
        option.header.key, option.header.raw_value = key.replace("_", "-"), value.encode()
    return reply.SerializeToString()


def streamed(payload: bytes, end: bool = False, *, response: bool = False) -> bytes:
    """A picker's StreamedBodyResponse."""
    reply = ProcessingResponse()
    part = reply.response_body if response else reply.request_body
    part.response.body_mutation.streamed_response.body = payload
    part.response.body_mutation.streamed_response.end_of_stream = end
    return reply.SerializeToString()


def unchanged(*, response: bool = False) -> bytes:
    """lwepp's empty CommonResponse."""
    reply = ProcessingResponse()
    (reply.response_body if response else reply.request_body).response.SetInParent()
    return reply.SerializeToString()


def answered(name: str) -> bytes:
    """An empty answer of the named kind."""
    reply = ProcessingResponse()
    getattr(reply, name).SetInParent()
    return reply.SerializeToString()


def immediate(status: int) -> bytes:
    """A picker's refusal."""
    reply = ProcessingResponse()
    reply.immediate_response.status.code = status
    return reply.SerializeToString()


def answering(part: str, *, end: bool = False) -> bytes:
    """One message of a StreamedImmediateResponse."""
    reply = ProcessingResponse()
    answer = reply.streamed_immediate_response
    if part == "headers":
        headers = answer.headers_response
        headers.headers.headers.add(key=":status", raw_value=b"429")
        headers.end_of_stream = end
    else:
        answer.body_response.body, answer.body_response.end_of_stream = b"busy", end
    return reply.SerializeToString()


@dataclass
class Direction:
    """What Envoy has been told of one direction."""

    headers: ProcessingResponse | None = None
    body: bytes = b""
    ended: bool = False


class IllegalReply(AssertionError):
    """Envoy would answer 500, hang, or send half a body."""


@dataclass
class Envoy:
    """Sends messages into an Exchange and holds its replies against the rules of ENVOY.md."""

    exchange: Exchange
    request: Direction = field(default_factory=Direction)
    response: Direction = field(default_factory=Direction)
    refusal: ProcessingResponse | None = None
    finished: bool = False
    failed: bool = False
    to_picker: list[ProcessingRequest] = field(default_factory=list)
    """What was sent on the newest of the picker's streams."""
    actions: list[Action] = field(default_factory=list)
    opened: int = 0
    armed: set[Timer] = field(default_factory=set)
    request_headers_only: bool = False
    response_headers_only: bool = False
    request_trailers: bool = False
    response_trailers: bool = False

    def send(self, *messages: bytes, followed: bool = False) -> None:
        """Envoy's messages, one by one. `followed`: see `Exchange.from_envoy`."""
        for raw in messages:
            message = ProcessingRequest.FromString(raw)
            kind = message.WhichOneof("request")
            if kind == "request_headers":
                self.request_headers_only = (
                    message.request_headers.end_of_stream or read_message(raw).headers_only
                )
            elif kind == "response_headers":
                self.response_headers_only = message.response_headers.end_of_stream
            elif kind == "request_trailers":
                self.request_trailers = True
            elif kind == "response_trailers":
                self.response_trailers = True
            self.do(self.exchange.from_envoy(raw, followed=followed))

    def picker(self, *replies: bytes) -> None:
        """The picker's messages, one by one."""
        for raw in replies:
            self.do(self.exchange.from_picker(raw))

    def do(self, actions: list[Action]) -> None:
        """Carry actions out, the way a session does."""
        self.actions += actions
        for action in actions:
            if isinstance(action, ToEnvoy):
                if self.finished:
                    raise IllegalReply("a reply after the end")
                self._reply(action.message)
            elif isinstance(action, FinishEnvoy):
                self.finished = True
            elif isinstance(action, FailEnvoy):
                self.finished = self.failed = True
            elif isinstance(action, ToPicker):
                self.to_picker.append(ProcessingRequest.FromString(action.message))
            elif isinstance(action, OpenPicker):
                self.opened += 1
                self.to_picker = []
            elif isinstance(action, Arm):
                self.armed.add(action.timer)
            elif isinstance(action, Disarm):
                self.armed.discard(action.timer)

    def ring(self, timer: Timer) -> None:
        """Let a timer ring, if it runs."""
        if timer in self.armed:
            self.armed.discard(timer)
            self.do(self.exchange.timer_rang(timer))

    def silence(self, timer: Timer) -> None:
        """Let a timer ring for as long as it counts a silence, if it runs."""
        for _ in range(QUARTERS + 1):
            if timer not in self.armed:
                return
            self.ring(timer)

    def _reply(self, raw: bytes) -> None:
        reply = ProcessingResponse.FromString(raw)
        located = read_reply(raw)
        if located.answer is Answer.IMMEDIATE:
            if self.response.headers is not None:
                raise IllegalReply("an ImmediateResponse breaks a flowing response")
            self.refusal = reply
            return
        requests = located.answer.name.startswith("REQUEST")
        side = self.request if requests else self.response
        headers_only = self.request_headers_only if requests else self.response_headers_only
        has_trailers = self.request_trailers if requests else self.response_trailers
        if side.ended and not (has_trailers and headers_only):
            raise IllegalReply(f"{located.answer!r} after the end of its direction")
        if located.answer in (Answer.REQUEST_HEADERS, Answer.RESPONSE_HEADERS):
            if side.headers is not None:
                raise IllegalReply("two header replies")
            side.headers, side.ended = reply, headers_only
        elif side.headers is None:
            raise IllegalReply("a reply before the header reply")
        elif located.answer in (Answer.REQUEST_BODY, Answer.RESPONSE_BODY):
            if located.form is not BodyForm.STREAMED:
                raise IllegalReply("Envoy takes StreamedBodyResponse only")
            side.body += raw[located.start : located.end]
            if located.end_of_stream:
                if has_trailers:
                    raise IllegalReply("end_of_stream on a body that has trailers")
                side.ended = True
        else:
            if not has_trailers:
                raise IllegalReply("a trailers reply nobody asked for")
            if requests and not (self.marked or headers_only):
                raise IllegalReply("with a route that retries, Envoy sends the body a second time")
            side.ended = True

    @property
    def marked(self) -> bool:
        """Whether the header answer makes Envoy choose the route without retries."""
        assert self.request.headers is not None
        marks = self.request.headers.dynamic_metadata.fields[MARKS_NAMESPACE].struct_value
        return marks.fields[REQUEST_TRAILERS_MARK].bool_value

    @property
    def destination(self) -> str | None:
        """The destination endpoint that Envoy was given."""
        if self.request.headers is None:
            return None
        lb = self.request.headers.dynamic_metadata.fields[LB_NAMESPACE].struct_value
        return lb.fields[DESTINATION].string_value

    @property
    def error(self) -> str | None:
        """`x-inference-error` of the refusal."""
        if self.refusal is None:
            return None
        for option in self.refusal.immediate_response.headers.set_headers:
            if option.header.key == "x-inference-error":
                return option.header.raw_value.decode()
        return None


def conversation(pool: PoolSnapshot | None = None, *, budget: int = 1 << 30, **more: bool) -> Envoy:
    """An Envoy in front of a new Exchange; the local pick is the first ready endpoint."""

    def first_ready(now: PoolSnapshot, subset: Subset | None) -> tuple[str, ...]:
        keys = subset.ready if subset else tuple(e.key for e in now.table.ready)
        return keys[:1]

    return Envoy(
        Exchange(
            pool or snapshot(),
            local_pick=first_ready,
            budget=RetentionBudget(budget),
            **more,
        )
    )
