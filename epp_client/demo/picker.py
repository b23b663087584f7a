"""A reference endpoint picker for the demo and the tests: GAIE's behaviour, and every dialect of it.

It picks after the end of the body, round robin; the request header `test-epp-endpoint-selection`
steers it, `x-picker-dialect` makes it speak like other pickers do, or break the protocol.
"""

import argparse
import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
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

CHUNK = 64_000


class Request:
    """What the picker knows of one request when it answers."""

    def __init__(self, message: ProcessingRequest, endpoints: list[str], turn: int) -> None:
        self.headers = {
            h.key.lower(): (h.raw_value or h.value.encode()).decode("latin-1")
            for h in message.request_headers.headers.headers
        }
        self.body = b""
        self.body_messages = 0
        self.has_body = not message.request_headers.end_of_stream
        candidates = _subset(message, endpoints)
        wanted = self.headers.get("test-epp-endpoint-selection")
        if wanted:
            names = [entry.strip() for entry in wanted.split(",")]
            self.pick = ",".join(
                e for n in names for e in candidates if n == e or n == e.rpartition(":")[0]
            )
        else:
            self.pick = candidates[turn % len(candidates)] if candidates else ""
        self.dialect = self.headers.get("x-picker-dialect", "pick-after-body")


def _subset(message: ProcessingRequest, endpoints: list[str]) -> list[str]:
    metadata = message.metadata_context.filter_metadata
    if SUBSET_NAMESPACE not in metadata:
        return endpoints
    allowed = [v.string_value for v in metadata[SUBSET_NAMESPACE].fields[SUBSET].list_value.values]
    return [endpoint for endpoint in endpoints if endpoint in allowed]


def header_answer(
    pick: str, *, header: str | None = None, metadata: bool = True, in_header: bool = True
) -> ProcessingResponse:
    """The pick in the header mutation and in the metadata."""
    reply = ProcessingResponse()
    common = reply.request_headers.response
    if in_header:
        option = common.header_mutation.set_headers.add()
        option.header.key = DESTINATION
        option.header.raw_value = (pick if header is None else header).encode()
    common.clear_route_cache = True
    if metadata:
        lb = reply.dynamic_metadata.fields[LB_NAMESPACE].struct_value
        lb.fields[DESTINATION].string_value = pick
    return reply


def body_answers(
    body: bytes, *, end: bool = True, response: bool = False, size: int = CHUNK
) -> Iterator[ProcessingResponse]:
    """StreamedBodyResponses of at most `size` bytes, the last one with the end of the stream."""
    starts = range(0, max(len(body), 1), size)
    for start in starts:
        reply = ProcessingResponse()
        part = reply.response_body if response else reply.request_body
        streamed = part.response.body_mutation.streamed_response
        streamed.body = body[start : start + size]
        streamed.end_of_stream = end and start == starts[-1]
        yield reply


def _unchanged(*, response: bool = False) -> ProcessingResponse:
    reply = ProcessingResponse()
    (reply.response_body if response else reply.request_body).response.SetInParent()
    return reply


def refuse(status: int) -> ProcessingResponse:
    """An ImmediateResponse."""
    reply = ProcessingResponse()
    reply.immediate_response.status.code = status
    reply.immediate_response.body = b"the picker refuses"
    return reply


def _whole(request: Request, **how: Any) -> Iterator[ProcessingResponse]:
    yield header_answer(request.pick, **how)
    if request.has_body:
        yield from body_answers(request.body)


def _picks(text: Callable[[Request], str]) -> Callable[[Request], Iterator[ProcessingResponse]]:
    def answer(request: Request) -> Iterator[ProcessingResponse]:
        request.pick = text(request)
        return _whole(request)

    return answer


def _rewritten(request: Request) -> Iterator[ProcessingResponse]:
    yield header_answer(request.pick)
    yield from body_answers(request.body.replace(b'"public-name"', b'"adapter-name"'))


def _mutating(request: Request) -> Iterator[ProcessingResponse]:
    reply = header_answer(request.pick)
    mutation = reply.request_headers.response.header_mutation
    option = mutation.set_headers.add()
    option.header.key, option.header.raw_value = "x-picker-added", b"yes"
    mutation.remove_headers.append("x-client-sent")
    yield reply
    yield from body_answers(request.body)


def _duplicated(request: Request) -> Iterator[ProcessingResponse]:
    """The header answer and the end of the body twice; a chunk twice would be another body."""
    first, *rest = _whole(request)
    yield from (first, first, *rest, *rest[-1:])


ANSWERS: dict[str, Callable[[Request], Iterator[ProcessingResponse]]] = {
    "pick-after-body": _whole,
    "body-before-headers": lambda r: iter([*body_answers(r.body), header_answer(r.pick)]),
    "common-response": lambda r: iter([header_answer(r.pick), _unchanged()]),
    "chunked": lambda r: iter([header_answer(r.pick), *body_answers(r.body, size=20_000)]),
    "rewrite-body": _rewritten,
    "replace-body": lambda r: iter([header_answer(r.pick), *body_answers(b"other" * 9, size=7)]),
    "mutate": _mutating,
    "header-only": lambda r: _whole(r, metadata=False),
    "metadata-only": lambda r: _whole(r, in_header=False),
    "disagree": lambda r: _whole(r, header="127.0.0.9:1"),
    "pick-hostname": _picks(lambda _: "pod-a.default.svc:8000"),
    "pick-no-port": _picks(lambda r: r.pick.rpartition(":")[0]),
    "pick-empty": _picks(lambda _: ""),
    "pick-10000": _picks(lambda r: ",".join([r.pick] * 10_000)),
    "pick-unicode": _picks(lambda _: "１２7.0.0.1:8000"),
    "pick-outside": _picks(lambda _: "127.0.0.77:9"),
    "pick-none": lambda r: _whole(r, metadata=False, in_header=False),
    "pick-list": _picks(lambda r: r.headers.get("x-picker-list", "")),
    "refuse-429": lambda _: iter([refuse(429)]),
    "refuse-503": lambda _: iter([refuse(503)]),
    "wrong-order": lambda r: iter([*body_answers(b"x", response=True), *_whole(r)]),
    "duplicate-replies": _duplicated,
}
ANSWERS["close-after-pick"] = ANSWERS["ignore-trailers"] = ANSWERS["silent-response"] = _whole
ANSWERS["die-mid-response"] = ANSWERS["rewrite-response"] = ANSWERS["refuse-at-response"] = _whole


class ReferencePicker:
    """The ext_proc service."""

    def __init__(self, endpoints: list[str]) -> None:
        self._endpoints = endpoints
        self._turn = 0

    async def process(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """One stream of Envoy's, by way of the sidecar."""
        request: Request | None = None
        answered = False
        async for raw in messages:
            if not raw:
                continue
            message = ProcessingRequest.FromString(raw)
            phase = message.WhichOneof("request")
            if phase == "request_headers":
                self._turn += 1
                request = Request(message, self._endpoints, self._turn)
                if request.dialect == "close-before-pick":
                    return
                if request.dialect == "no-endpoints-status":
                    await context.abort(grpc.StatusCode.INTERNAL, "no endpoints")
                if request.dialect == "pick-with-headers":
                    yield header_answer(request.pick).SerializeToString()
            assert request is not None
            if phase == "request_body":
                request.body += message.request_body.body
                request.body_messages += 1
            if request.dialect == "silent":
                continue
            if request.dialect in ("pick-with-headers", "streaming"):
                if phase == "request_body":
                    part = message.request_body
                    for reply in body_answers(part.body, end=part.end_of_stream):
                        yield reply.SerializeToString()
            elif request.dialect == "common-response" and phase == "request_body":
                if message.request_body.end_of_stream:
                    yield header_answer(request.pick).SerializeToString()
                    answered = True
                yield _unchanged().SerializeToString()
            elif request.dialect == "garbage-bytes":
                yield b"\xff\xff\xff\xff"
            elif request.dialect == "die-mid-body" and message.request_body.end_of_stream:
                yield header_answer(request.pick).SerializeToString()
                yield next(body_answers(b"half", end=False)).SerializeToString()
                await context.abort(grpc.StatusCode.ABORTED, "died")
            elif not answered and (
                message.request_headers.end_of_stream or message.request_body.end_of_stream
            ):
                answered = True
                for reply in ANSWERS[request.dialect](request):
                    yield reply.SerializeToString()
                if request.dialect == "close-after-pick":
                    return
            if phase is not None and phase.startswith(("response", "request_trailers")):
                async for reply in self._later(request, phase, message, context):
                    yield reply.SerializeToString()

    async def _later(
        self, request: Request, phase: str, message: ProcessingRequest, context: Any
    ) -> AsyncIterator[ProcessingResponse]:
        if request.dialect == "silent-response":
            return
        if phase == "response_headers":
            if request.dialect == "refuse-at-response":
                yield refuse(502)
                return
            yield _response_headers(message)
        elif phase == "response_body":
            if request.dialect == "die-mid-response":
                await context.abort(grpc.StatusCode.ABORTED, "died")
            if request.dialect == "common-response":
                yield _unchanged(response=True)
                return
            part = message.response_body
            body = part.body
            if request.dialect == "rewrite-response":
                body = body.replace(b"Hello", b"Bonjour")
            for reply in body_answers(body, end=part.end_of_stream, response=True):
                yield reply
        elif request.dialect not in ("ignore-trailers", "common-response"):
            reply = ProcessingResponse()
            getattr(reply, phase).SetInParent()
            yield reply


def _response_headers(message: ProcessingRequest) -> ProcessingResponse:
    served = message.metadata_context.filter_metadata[LB_NAMESPACE].fields[SERVED].string_value
    reply = ProcessingResponse()
    reply.response_headers.SetInParent()
    if served:
        option = reply.response_headers.response.header_mutation.set_headers.add()
        option.header.key = "x-conformance-test-served-endpoint"
        option.header.raw_value = served.encode()
    return reply


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, picker: ReferencePicker) -> None:
        self._picker = picker

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != PROCESS:
            return None
        return grpc.stream_stream_rpc_method_handler(self._picker.process)


async def start_picker(
    address: str, endpoints: list[str], credentials: grpc.ServerCredentials | None = None
) -> tuple[aio.Server, str]:
    """Start a picker; returns the server and its bound address."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = aio.server(options=unlimited)
    server.add_generic_rpc_handlers((_Handler(ReferencePicker(endpoints)),))
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    return server, f"{address.rpartition(':')[0]}:{port}"


async def _main(listen: str, endpoints: list[str]) -> None:
    server, address = await start_picker(listen, endpoints)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(json.dumps({"address": address}), flush=True)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--endpoints", required=True, help="ip:port,ip:port")
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.listen, arguments.endpoints.split(",")))
