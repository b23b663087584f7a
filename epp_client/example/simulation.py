"""A simulated endpoint picker and two simulated model servers, until Ctrl-C.

It is there to be replaced by your picker, and by model servers such as vLLM. The picker takes the endpoints
in turn. The model servers answer /v1/completions and /v1/chat/completions with the prompt, as a stream if
the request has `"stream": true`.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from aiohttp import web
from grpc import aio

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse

PICKER = "127.0.0.1:9002"
ENDPOINTS = ("127.0.0.1:8001", "127.0.0.1:8002")

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
DESTINATION = "x-gateway-destination-endpoint"
CHUNK = 60_000
"""Bytes of a body in one message. Envoy's limit is 64 KiB."""

_turn = itertools.cycle(ENDPOINTS)


# --- the picker ---


async def process(messages: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    """One request: decide when the whole of it has come, and pass both bodies on."""
    body = b""
    async for raw in messages:
        message = ProcessingRequest.FromString(raw)
        if message.HasField("request_body"):
            body += message.request_body.body
        for answer in answers(message, body):
            yield answer.SerializeToString()


def answers(message: ProcessingRequest, body: bytes) -> Iterator[ProcessingResponse]:
    """The answers to one message. `body` is what has come of the request's."""
    match message.WhichOneof("request"):
        case "request_headers" if message.request_headers.end_of_stream:
            yield decision()
        case "request_body" if message.request_body.end_of_stream:
            yield decision()
            yield from passed_on("request_body", body, True)
        case "request_trailers":
            yield decision()
            yield from passed_on("request_body", body, False)
            yield ProcessingResponse(request_trailers={})
        case "response_headers":
            yield ProcessingResponse(response_headers={})
        case "response_body":
            part = message.response_body
            yield from passed_on("response_body", part.body, part.end_of_stream)
        case "response_trailers":
            yield ProcessingResponse(response_trailers={})


def decision() -> ProcessingResponse:
    """The endpoint of a request, as a header and as dynamic metadata."""
    endpoint = next(_turn)
    print(f"picker: {endpoint}", flush=True)
    header = {"header": {"key": DESTINATION, "raw_value": endpoint.encode()}}
    answer = ProcessingResponse(
        request_headers={
            "response": {"header_mutation": {"set_headers": [header]}, "clear_route_cache": True}
        }
    )
    answer.dynamic_metadata.update({"envoy.lb": {DESTINATION: endpoint}})
    return answer


def passed_on(kind: str, body: bytes, end: bool) -> Iterator[ProcessingResponse]:
    """A body, unchanged, in messages of at most CHUNK bytes."""
    for start in range(0, max(len(body), 1), CHUNK):
        part = {
            "body": body[start : start + CHUNK],
            "end_of_stream": end and start + CHUNK >= len(body),
        }
        fields: Any = {kind: {"response": {"body_mutation": {"streamed_response": part}}}}
        yield ProcessingResponse(**fields)


async def start_picker() -> aio.Server:
    """Serve the Endpoint Picker Protocol over plaintext gRPC."""
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.stream_stream_rpc_method_handler(process)
    service, method = PROCESS.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    server.add_insecure_port(PICKER)
    await server.start()
    return server


# --- the model servers ---


async def complete(request: web.Request) -> web.StreamResponse:
    """Answer with the prompt, word by word if a stream is asked for."""
    asked = await request.json()
    prompt = asked.get("prompt") or asked.get("messages", [{}])[-1].get("content", "")
    served_by = request.app["address"]
    print(f"model server {served_by}: {request.path}", flush=True)
    headers = {"x-served-by": served_by}
    if not asked.get("stream"):
        choices = [
            {"index": 0, "text": prompt, "message": {"role": "assistant", "content": prompt}}
        ]
        return web.json_response({"model": asked.get("model"), "choices": choices}, headers=headers)
    response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream"})
    await response.prepare(request)
    for word in str(prompt).split():
        event = {"choices": [{"index": 0, "text": word, "delta": {"content": word}}]}
        await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await asyncio.sleep(0.2)
    await response.write(b"data: [DONE]\n\n")
    return response


async def health(_: web.Request) -> web.Response:
    """Ready at once."""
    return web.Response()


async def start_model_server(address: str) -> None:
    """Serve completions at an address."""
    app = web.Application()
    app["address"] = address
    app.router.add_post("/v1/completions", complete)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    host, _, port = address.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()


async def main() -> None:
    """Run until Ctrl-C."""
    for address in ENDPOINTS:
        await start_model_server(address)
    # The server ends when nothing refers to it.
    server = await start_picker()
    print(f"picker at {PICKER}, model servers at {' and '.join(ENDPOINTS)}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
